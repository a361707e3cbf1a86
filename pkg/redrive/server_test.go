package redrive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/redrive"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// TestOnAServer runs a driver on a real cluster, in which a policy refuses what
// kube-controller-manager's controllers delete, as a spent budget does. The
// budget's status is written by hand.
func TestOnAServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	running, err := sandbox.New(ctx, sandbox.Options{Clusters: 1, Nodes: 2, NoMesh: true})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	s := &server{T: t, Client: connect(t, running.Clusters[0].Config)}
	s.refuseControllers()
	s.apply(budgeted(3)...)
	s.eventually("three pods are ready", func() error { return s.ready(3) })
	s.allow(0)
	runDriver(t, ctx, running.Clusters[0].Config)

	t.Run("status subresource", func(t *testing.T) { wantOnlyMetadata(&server{T: t, Client: s.Client}) })
	t.Run("taint", func(t *testing.T) {
		s := &server{T: t, Client: s.Client}
		node := s.pods()[0].Spec.NodeName
		before := len(s.on(node))
		s.taint(node, corev1.Taint{Key: "maintenance", Effect: corev1.TaintEffectNoExecute})
		s.eventually("the taint manager has tried", func() error {
			if !slices.ContainsFunc(s.on(node)[0].Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }) {
				return errors.New("no pod is a DisruptionTarget")
			}
			return nil
		})
		if n := len(s.on(node)); n != before {
			t.Fatalf("%d pods are left on the node, of %d: the policy does not refuse", n, before)
		}
		s.allow(1)
		s.eventually("the pods leave the node", func() error {
			if n := len(s.on(node)); n > 0 {
				return fmt.Errorf("%d are left", n)
			}
			return nil
		})
		s.taint(node)
	})
	t.Run("scale-down", func(t *testing.T) {
		s := &server{T: t, Client: s.Client}
		s.eventually("three pods are ready", func() error { return s.ready(3) })
		s.allow(0)
		s.scale(1)
		s.eventually("the controller is refused", func() error {
			if s.kickedAt() != "" {
				t.Fatal("its controller was kicked while the budget is spent")
			}
			if c := s.replicaSet().Status.Conditions; len(c) == 0 || c[0].Reason != "FailedDelete" {
				return fmt.Errorf("conditions are %+v", c)
			}
			return nil
		})
		s.allow(1)
		s.eventually("its controller is kicked", func() error {
			if at, err := time.Parse(time.RFC3339, s.kickedAt()); err != nil || time.Since(at) > 10*time.Second {
				return fmt.Errorf("annotation %q", s.kickedAt())
			}
			return nil
		})
		s.allowControllers()
		s.eventually("one pod is left", func() error { return s.ready(1) })
	})
}

// wantOnlyMetadata checks what owners are annotated by: the status subresource
// takes an annotation for the UID that it names, and changes nothing of the spec.
func wantOnlyMetadata(s *server) {
	labels := map[string]string{"app": "other"}
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "other"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "other", Image: "other"}}, NodeSelector: map[string]string{"nowhere": "at-all"},
	}}
	selector, none := &metav1.LabelSelector{MatchLabels: labels}, int32(0)
	for kind, o := range map[string]client.Object{
		"ReplicaSet":            &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: &none, Selector: selector, Template: template}},
		"StatefulSet":           &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template, ServiceName: "other"}},
		"DaemonSet":             &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		"ReplicationController": &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Replicas: &none, Selector: labels, Template: &template}},
	} {
		s.apply(o)
		before := o.DeepCopyObject().(client.Object)
		patch := func(uid types.UID) error {
			body := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:"now"}},"spec":{"replicas":5,"minReadySeconds":7,"template":{"metadata":{"labels":{"more":"x"}}}}}`, uid, v1alpha1.KickedAtAnnotation)
			return s.Status().Patch(s.Context(), o, client.RawPatch(types.MergePatchType, []byte(body)))
		}
		if err := patch("00000000-1111-2222-3333-444444444444"); !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			s.Errorf("%s: with another UID: got %v", kind, err)
		}
		if err := patch(before.GetUID()); err != nil {
			s.Errorf("%s: %v", kind, err)
		}
		s.must(s.Get(s.Context(), client.ObjectKeyFromObject(o), o))
		if o.GetAnnotations()[v1alpha1.KickedAtAnnotation] != "now" || o.GetGeneration() != before.GetGeneration() || o.GetUID() != before.GetUID() {
			s.Errorf("%s: annotations %v, generation %d of %d", kind, o.GetAnnotations(), before.GetGeneration(), o.GetGeneration())
		}
	}
}

// runDriver runs a driver in a manager, as the leader does.
func runDriver(t *testing.T, ctx context.Context, config *rest.Config) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme(t), Metrics: metricsserver.Options{BindAddress: "0"}, Cache: workload.CacheOptions(),
	})
	if err != nil {
		t.Fatal(err)
	}
	pods, coverage := workload.NewPods(clients), workload.NewCoverage()
	if err := coverage.Follow(ctx, mgr.GetCache()); err != nil {
		t.Fatal(err)
	}
	reporter, err := redrive.NewReporter(prometheus.NewRegistry(), events.NewFakeRecorder(1000))
	if err != nil {
		t.Fatal(err)
	}
	driver := redrive.New(redrive.Config{
		Client: mgr.GetClient(), Taints: workload.NewTaints(), Changed: func(string, string) {}, Reporter: reporter, Log: logr.Discard(),
		Workload: &workload.Workload{Cached: mgr.GetClient(), Live: mgr.GetAPIReader(), Running: pods, Coverage: coverage},
	})
	if err := errors.Join(redrive.Setup(mgr, driver, pods), mgr.Add(manager.RunnableFunc(pods.Run))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s), apiextensionsv1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

// connect installs the definition of budgets.
func connect(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crd", "meshpdb.io_meshpoddisruptionbudgets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &definition); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), &definition); err != nil {
		t.Fatal(err)
	}
	return c
}

// server acts on the cluster.
type server struct {
	*testing.T
	client.Client
}

func (s *server) apply(objects ...client.Object) {
	s.Helper()
	for _, o := range objects {
		s.eventually(fmt.Sprintf("create %T", o), func() error { return s.Create(s.Context(), o) })
	}
}

func (s *server) eventually(what string, check func() error) {
	s.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			s.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (s *server) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

const policyName = "spent-budget"

// refuseControllers waits until the policy is in force.
func (s *server) refuseControllers() {
	s.Helper()
	deny := admissionregistrationv1.Deny
	s.apply(&admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: policyName},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Delete},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: `!request.userInfo.username.startsWith("system:serviceaccount:kube-system:") || has(oldObject.metadata.deletionTimestamp)`}},
		},
	}, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policyName},
		Spec:       admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policyName, ValidationActions: []admissionregistrationv1.ValidationAction{deny}},
	})
}

func (s *server) allowControllers() {
	s.Helper()
	s.must(s.Delete(s.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: policyName}}))
}

// budgeted is a ReplicaSet with a Service and a budget.
func budgeted(replicas int32) []client.Object {
	one, labels := intstr.FromInt32(1), map[string]string{"app": "db"}
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "db", Labels: labels}
	return []client.Object{
		&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}}},
		&v1alpha1.MeshPodDisruptionBudget{ObjectMeta: meta, Spec: v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: &one}},
		&appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "db", Image: "db"}}}},
		}},
	}
}

var dbKey = types.NamespacedName{Namespace: metav1.NamespaceDefault, Name: "db"}

// allow writes the status as the budget's own controller would.
func (s *server) allow(n int32) {
	s.Helper()
	s.eventually("write status", func() error {
		var b v1alpha1.MeshPodDisruptionBudget
		if err := s.Get(s.Context(), dbKey, &b); err != nil {
			return err
		}
		b.Status.DisruptionsAllowed = n
		b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonEnforced, LastTransitionTime: metav1.Now()}}
		return s.Status().Update(s.Context(), &b)
	})
}

func (s *server) pods() []corev1.Pod {
	s.Helper()
	var list corev1.PodList
	s.must(s.List(s.Context(), &list, client.InNamespace(metav1.NamespaceDefault), client.MatchingLabels{"app": "db"}))
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func (s *server) on(node string) []corev1.Pod {
	s.Helper()
	return slices.DeleteFunc(s.pods(), func(p corev1.Pod) bool { return p.Spec.NodeName != node })
}

func (s *server) ready(n int) error {
	s.Helper()
	pods := s.pods()
	if len(pods) != n || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !workload.IsReady(&p) }) {
		return fmt.Errorf("there are %d pods, or not all are ready", len(pods))
	}
	return nil
}

func (s *server) taint(name string, taints ...corev1.Taint) {
	s.Helper()
	s.eventually("taint node", func() error {
		var node corev1.Node
		if err := s.Get(s.Context(), types.NamespacedName{Name: name}, &node); err != nil {
			return err
		}
		node.Spec.Taints = taints
		return s.Update(s.Context(), &node)
	})
}

func (s *server) replicaSet() *appsv1.ReplicaSet {
	s.Helper()
	var rs appsv1.ReplicaSet
	s.must(s.Get(s.Context(), dbKey, &rs))
	return &rs
}

func (s *server) kickedAt() string { return s.replicaSet().Annotations[v1alpha1.KickedAtAnnotation] }

func (s *server) scale(n int32) {
	s.Helper()
	s.eventually("scale", func() error {
		rs := s.replicaSet()
		rs.Spec.Replicas = &n
		if err := s.Update(s.Context(), rs); !apierrors.IsConflict(err) {
			s.must(err)
			return nil
		}
		return errors.New("conflict")
	})
}
