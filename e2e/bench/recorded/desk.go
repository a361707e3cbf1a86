package recorded

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	meshpdb "github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// desk is the webhook of a site: the real handler, decider and reporter. Pods and
// budgets come from memory, as from informers, and Events go nowhere.
type desk struct {
	site    *site
	pod     *corev1.Pod
	budgets []v1alpha1.MeshPodDisruptionBudget
	request admission.Request
}

// newDesk is asked to evict the first pod of a budget.
func newDesk(at *site, b *book, namespace, budget string) *desk {
	r := b.request(namespace, budget)
	d := &desk{site: at, pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: r.Pod, UID: types.UID(r.UID), Labels: map[string]string{"app": budget, "pod-template-hash": "7b4fbb8d49", "tier": "data"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: budget + "-7b4fbb8d49", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: addressOf(0, 0), Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}}
	d.budgets = []v1alpha1.MeshPodDisruptionBudget{{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: budget, Generation: 1},
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: budget, Clusters: b.view},
	}}
	d.request = admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: "6e1f3c52-7a55-4f0e-9e0e-0d9b8a1c2f47", Namespace: namespace, Name: r.Pod, Operation: admissionv1.Create, SubResource: "eviction",
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		UserInfo: authenticationv1.UserInfo{Username: "system:serviceaccount:kube-system:cluster-autoscaler"},
		Object:   runtime.RawExtension{Raw: []byte(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"` + namespace + `","name":"` + r.Pod + `"}}`)},
	}}
	return d
}

// handler is the mutating webhook, which is asked first and refuses what the cached view refuses.
func (d *desk) handler(s *shower) admission.Handler {
	log := zap.New(zap.WriteTo(io.Discard))
	// Its registry is its own, so nothing can be registered already.
	reporter, err := meshpdb.NewReporter(prometheus.NewRegistry(), noEvents{}, log)
	if err != nil {
		panic(err)
	}
	answered := reporter.Answered
	if s.observer != nil {
		// As cmd/meshpdb-controller does.
		answered = meshpdb.All(reporter.Answered, func(a meshpdb.Answer) { s.observer.Publish(a.Shown(time.Now())) })
	}
	return &meshpdb.Precondition{Config: meshpdb.Config{
		Cluster: nameOf(0), Decider: d.site.decider, Pods: d, Facts: noFacts{}, Ready: func() error { return nil }, Answered: answered, Log: log,
	}}
}

func (d *desk) CachedPod(context.Context, string, string) (*corev1.Pod, error) { return d.pod, nil }

func (d *desk) Pod(context.Context, string, string) (*corev1.Pod, error) { return d.pod, nil }

func (d *desk) BudgetsOf(context.Context, *corev1.Pod) ([]v1alpha1.MeshPodDisruptionBudget, error) {
	return d.budgets, nil
}

type noEvents struct{}

func (noEvents) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

// noFacts: nothing else is known of the cluster, and a refusal from memory does not ask.
type noFacts struct{}

func (noFacts) Node(context.Context, string) (*corev1.Node, error) { return nil, nil }

func (noFacts) DaemonSet(context.Context, string, string) (*appsv1.DaemonSet, error) { return nil, nil }

func (noFacts) Terminating(context.Context, string) bool { return false }

func (noFacts) NativeBudgets(context.Context, *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	return nil, nil
}

func (noFacts) MayBreakGlass(context.Context, authenticationv1.UserInfo, string, string) (bool, error) {
	return false, nil
}
