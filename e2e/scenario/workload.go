package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Cluster is a Kubernetes cluster under an administrator's credentials.
type Cluster struct {
	Name   string
	Config *rest.Config
	Client kubernetes.Interface
	// API is for kinds that Client does not know.
	API client.Client
}

// NewCluster makes the clients of a cluster.
func NewCluster(name string, config *rest.Config) (*Cluster, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("make scheme: %w", err)
	}
	// As Kubernetes' own components ask: JSON would cost the machine that clusters and callers share.
	binary := rest.CopyConfig(config)
	binary.ContentType = runtime.ContentTypeProtobuf
	binary.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	clientset, err := kubernetes.NewForConfig(binary)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", name, err)
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", name, err)
	}
	return &Cluster{Name: name, Config: config, Client: clientset, API: api}, nil
}

// Workload is one service stretched over several clusters.
type Workload struct {
	Clusters []*Cluster
	// Namespace of its own, and Name of its Deployment, Service and budget.
	Namespace, Name string
	// Replicas in each cluster.
	Replicas int32
	// Owner makes what owns the pods, instead of a Deployment, by the template of a pod. It must ask for Replicas of them.
	Owner func(metav1.ObjectMeta, corev1.PodTemplateSpec) client.Object
}

// Expected is the number of pods in all clusters.
func (w *Workload) Expected() int { return int(w.Replicas) * len(w.Clusters) }

// Selector selects the workload's pods.
func (w *Workload) Selector() string { return "app=" + w.Name }

// Apply creates namespace, Service and Deployment in every cluster.
func (w *Workload) Apply(ctx context.Context) error {
	for _, c := range w.Clusters {
		objects := []client.Object{
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}},
			w.service(),
			w.owner(),
		}
		for _, o := range objects {
			if err := c.API.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create %T in %s: %w", o, c.Name, err)
			}
		}
	}
	return nil
}

func (w *Workload) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name}
}

func (w *Workload) service() *corev1.Service {
	s := &corev1.Service{ObjectMeta: w.meta(), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": w.Name},
		Ports:    []corev1.ServicePort{{Port: 5432}},
	}}
	s.Annotations = map[string]string{"service.cilium.io/global": "true"}
	return s
}

// Labels of the pods.
func (w *Workload) Labels() map[string]string { return map[string]string{"app": w.Name} }

// gracePeriod of the pods in seconds. How long they take to stop is the sandbox's to say; but the namespace controller
// looks again only after half of it when pods remain.
const gracePeriod = 2

// Template of the pods.
func (w *Workload) Template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: w.Labels()},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](gracePeriod),
			Containers:                    []corev1.Container{{Name: w.Name, Image: "registry.k8s.io/pause:3.10"}},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
				LabelSelector: &metav1.LabelSelector{MatchLabels: w.Labels()},
			}},
		},
	}
}

func (w *Workload) owner() client.Object {
	if w.Owner != nil {
		return w.Owner(w.meta(), w.Template())
	}
	return &appsv1.Deployment{ObjectMeta: w.meta(), Spec: appsv1.DeploymentSpec{
		Replicas: &w.Replicas, Selector: &metav1.LabelSelector{MatchLabels: w.Labels()}, Template: w.Template(),
	}}
}

// Budget applies a MeshPodDisruptionBudget in every cluster.
func (w *Workload) Budget(ctx context.Context, spec v1alpha1.MeshPodDisruptionBudgetSpec) error {
	spec.Service = w.Name
	for _, c := range w.Clusters {
		b := &v1alpha1.MeshPodDisruptionBudget{ObjectMeta: w.meta(), Spec: spec}
		if err := c.API.Create(ctx, b); err != nil {
			return fmt.Errorf("create budget in %s: %w", c.Name, err)
		}
	}
	return nil
}

// NativeBudget applies a PodDisruptionBudget of the same size in every cluster.
func (w *Workload) NativeBudget(ctx context.Context, maxUnavailable intstr.IntOrString) error {
	for _, c := range w.Clusters {
		if err := w.nativeBudget(ctx, c, maxUnavailable); err != nil {
			return err
		}
	}
	return nil
}

func (w *Workload) nativeBudget(ctx context.Context, c *Cluster, maxUnavailable intstr.IntOrString) error {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: w.meta(), Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: &maxUnavailable,
		Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.Name}},
	}}
	if _, err := c.Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Create(ctx, b, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create PodDisruptionBudget in %s: %w", c.Name, err)
	}
	return nil
}

// Delete removes the workload's namespace from every cluster and waits until it is gone.
func (w *Workload) Delete(ctx context.Context) error {
	for _, c := range w.Clusters {
		err := c.Client.CoreV1().Namespaces().Delete(ctx, w.Namespace, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete namespace in %s: %w", c.Name, err)
		}
	}
	return w.eventually(ctx, time.Minute, "the namespaces to go", func(ctx context.Context, c *Cluster) error {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, w.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("namespace %s is still there", w.Namespace))
	})
}

// AwaitReady waits until every pod is available.
func (w *Workload) AwaitReady(ctx context.Context) error {
	return w.eventually(ctx, 2*time.Minute, "the pods to become Ready", func(ctx context.Context, c *Cluster) error {
		if w.Owner != nil {
			return w.complete(ctx, c)
		}
		d, err := c.Client.AppsV1().Deployments(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ReadyReplicas != w.Replicas || d.Status.Replicas != w.Replicas {
			return fmt.Errorf("%d of %d pods are ready", d.Status.ReadyReplicas, w.Replicas)
		}
		return nil
	})
}

// complete looks at the pods, where status means something else for each kind of owner.
func (w *Workload) complete(ctx context.Context, c *Cluster) error {
	available, err := w.Available(ctx, c)
	if err != nil {
		return err
	}
	all, err := c.Client.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.Selector()})
	if err != nil {
		return err
	}
	if len(available) != int(w.Replicas) || len(all.Items) != len(available) {
		return fmt.Errorf("%d of %d pods are available, want %d", len(available), len(all.Items), w.Replicas)
	}
	return nil
}

// AwaitBudget waits until every cluster enforces the budget and sees all others.
func (w *Workload) AwaitBudget(ctx context.Context) error {
	return w.eventually(ctx, time.Minute, "the budget to be enforced", func(ctx context.Context, c *Cluster) error {
		b, err := w.GetBudget(ctx, c)
		if err != nil {
			return err
		}
		all := fmt.Sprintf("%d/%d", len(w.Clusters), len(w.Clusters))
		if b.Status.ClustersReachable != all || int(b.Status.CurrentHealthy) != w.Expected() || Condition(b, v1alpha1.ConditionEnforced) != metav1.ConditionTrue {
			return fmt.Errorf("budget status is %+v", b.Status)
		}
		return nil
	})
}

// SetMaxUnavailable changes the budget in every cluster.
func (w *Workload) SetMaxUnavailable(ctx context.Context, n int32) error {
	for _, c := range w.Clusters {
		b, err := w.GetBudget(ctx, c)
		if err != nil {
			return fmt.Errorf("read budget in %s: %w", c.Name, err)
		}
		before := b.DeepCopy()
		value := intstr.FromInt32(n)
		b.Spec.MaxUnavailable = &value
		if err := c.API.Patch(ctx, b, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("change budget in %s: %w", c.Name, err)
		}
	}
	return nil
}

// AwaitAllowed waits until every cluster says that so many disruptions are allowed.
func (w *Workload) AwaitAllowed(ctx context.Context, n int32) error {
	return w.eventually(ctx, time.Minute, "the budget to change", func(ctx context.Context, c *Cluster) error {
		b, err := w.GetBudget(ctx, c)
		if err != nil {
			return err
		}
		if b.Status.DisruptionsAllowed != n || b.Status.ObservedGeneration != b.Generation {
			return fmt.Errorf("%d are allowed", b.Status.DisruptionsAllowed)
		}
		return nil
	})
}

// GetBudget reads the budget in one cluster.
func (w *Workload) GetBudget(ctx context.Context, c *Cluster) (*v1alpha1.MeshPodDisruptionBudget, error) {
	var b v1alpha1.MeshPodDisruptionBudget
	err := c.API.Get(ctx, client.ObjectKey{Namespace: w.Namespace, Name: w.Name}, &b)
	return &b, err
}

// Condition returns the status of a condition, "" if it is not set.
func Condition(b *v1alpha1.MeshPodDisruptionBudget, kind string) metav1.ConditionStatus {
	for _, c := range b.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

func (w *Workload) eventually(ctx context.Context, timeout time.Duration, what string, check func(context.Context, *Cluster) error) error {
	for _, c := range w.Clusters {
		var last error
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
			last = check(ctx, c)
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("wait for %s in %s: %w", what, c.Name, errors.Join(err, last))
		}
	}
	return nil
}
