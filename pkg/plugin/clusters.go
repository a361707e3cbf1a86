package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Clusters opens the clusters that kubeconfig contexts lead to.
type Clusters interface {
	// Open opens a context's cluster; the current one's by "".
	Open(context string) (*Cluster, error)
}

// Cluster is one cluster and what the plugin asks it.
type Cluster struct {
	// Context that led to it.
	Context string
	// Namespace that is meant where none is named.
	Namespace string
	Kube      kubernetes.Interface
	Dynamic   dynamic.Interface
	// DryRunEvict asks the API server to evict a pod, without effect; nil if it would.
	DryRunEvict func(ctx context.Context, namespace, pod string) error
	// name in the mesh, once it is known.
	name string
}

// budgetResource is what API servers call budgets.
var budgetResource = schema.GroupVersionResource{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: "meshpoddisruptionbudgets"}

// kubeconfig opens clusters by the flags that every kubectl command has.
type kubeconfig struct {
	flags    *genericclioptions.ConfigFlags
	warnings rest.WarningHandler
}

func (k kubeconfig) Open(name string) (*Cluster, error) {
	flags := k.flags
	if name != "" {
		flags = inContext(k.flags, name)
	}
	loader := flags.ToRawKubeConfigLoader()
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, err
	}
	if name == "" {
		raw, err := loader.RawConfig()
		if err != nil {
			return nil, err
		}
		name = cmp.Or(*flags.Context, raw.CurrentContext)
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	config.WarningHandler = k.warnings
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	return &Cluster{Context: name, Namespace: namespace, Kube: clients, Dynamic: objects, DryRunEvict: dryRunEvict(clients)}, nil
}

// inContext returns the flags as if --context had been given, without those
// that name a server of their own.
func inContext(flags *genericclioptions.ConfigFlags, name string) *genericclioptions.ConfigFlags {
	other := genericclioptions.NewConfigFlags(true)
	other.KubeConfig, other.Namespace, other.CacheDir, other.Timeout = flags.KubeConfig, flags.Namespace, flags.CacheDir, flags.Timeout
	other.Impersonate, other.ImpersonateUID, other.ImpersonateGroup = flags.Impersonate, flags.ImpersonateUID, flags.ImpersonateGroup
	other.Insecure, other.DisableCompression = flags.Insecure, flags.DisableCompression
	other.Context = &name
	return other
}

// dryRunEvict says that it is a dry-run in query and body: in the query every
// webhook sees it, in the body kubectl's own drain does it.
func dryRunEvict(clients kubernetes.Interface) func(ctx context.Context, namespace, pod string) error {
	all := []string{metav1.DryRunAll}
	return func(ctx context.Context, namespace, pod string) error {
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}, DeleteOptions: &metav1.DeleteOptions{DryRun: all}}
		return clients.PolicyV1().RESTClient().Post().AbsPath("/api/v1").
			Namespace(namespace).Resource("pods").Name(pod).SubResource("eviction").
			VersionedParams(&metav1.CreateOptions{DryRun: all}, scheme.ParameterCodec).
			// A refusal with Retry-After is an answer.
			MaxRetries(0).Body(eviction).Do(ctx).Error()
	}
}

// budgets returns the budgets of a namespace by name, of all by "".
func (c *Cluster) budgets(ctx context.Context, namespace string) ([]v1alpha1.MeshPodDisruptionBudget, error) {
	list, err := c.Dynamic.Resource(budgetResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.explain(err)
	}
	all := make([]v1alpha1.MeshPodDisruptionBudget, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &all[i]); err != nil {
			return nil, fmt.Errorf("decode budget %s: %w", list.Items[i].GetName(), err)
		}
	}
	slices.SortFunc(all, func(a, b v1alpha1.MeshPodDisruptionBudget) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (c *Cluster) budget(ctx context.Context, namespace, name string) (*v1alpha1.MeshPodDisruptionBudget, error) {
	object, err := c.Dynamic.Resource(budgetResource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, c.explain(err)
	}
	return decodeBudget(object)
}

func decodeBudget(object *unstructured.Unstructured) (*v1alpha1.MeshPodDisruptionBudget, error) {
	var b v1alpha1.MeshPodDisruptionBudget
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &b); err != nil {
		return nil, fmt.Errorf("decode budget %s: %w", object.GetName(), err)
	}
	return &b, nil
}

// explain says so if meshpdb is not installed: the API server only says that it could not find the resource.
func (c *Cluster) explain(err error) error {
	status, ok := err.(apierrors.APIStatus)
	if ok && apierrors.IsNotFound(err) && (status.Status().Details == nil || status.Status().Details.Name == "") {
		return fmt.Errorf("the cluster of context %s knows no MeshPodDisruptionBudgets: install meshpdb there by kubectl apply -k deploy", c.Context)
	}
	return err
}

// coverage finds the budgets that cover pods of one cluster; it reads each Service once.
type coverage struct {
	cluster  *Cluster
	services map[string]*corev1.Service
}

func newCoverage(c *Cluster) *coverage {
	return &coverage{cluster: c, services: map[string]*corev1.Service{}}
}

// service returns a Service; nil if there is none.
func (c *coverage) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	key := namespace + "/" + name
	if s, known := c.services[key]; known {
		return s, nil
	}
	s, err := c.cluster.Kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read service %s: %w", key, err)
	}
	c.services[key] = s
	return s, nil
}

// selector is what a budget's Service selects, as seen last if there is none any more.
func (c *coverage) selector(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget) (labels.Selector, error) {
	s, err := c.service(ctx, b.Namespace, b.Spec.Service)
	if err != nil {
		return nil, err
	}
	set := b.Status.Selector
	if s != nil && len(s.Spec.Selector) > 0 {
		set = s.Spec.Selector
	}
	if len(set) == 0 {
		return labels.Nothing(), nil
	}
	return labels.SelectorFromSet(set), nil
}

// of returns those of the budgets that cover a pod and hold it, or would if they were not suspended.
func (c *coverage) of(ctx context.Context, budgets []v1alpha1.MeshPodDisruptionBudget, pod *corev1.Pod) ([]*v1alpha1.MeshPodDisruptionBudget, error) {
	var all []*v1alpha1.MeshPodDisruptionBudget
	for i := range budgets {
		b := &budgets[i]
		if b.Namespace != pod.Namespace || !heldHere(b) {
			continue
		}
		selector, err := c.selector(ctx, b)
		if err != nil {
			return nil, err
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			all = append(all, b)
		}
	}
	return all, nil
}

// heldHere reports whether the budget is for this cluster's pods at all.
func heldHere(b *v1alpha1.MeshPodDisruptionBudget) bool {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEnforced)
	return c == nil || c.Reason != v1alpha1.ReasonClusterNotInScope && c.Reason != v1alpha1.ReasonProtectedNamespace
}

// openAll opens several contexts, or the current one.
func openAll(clusters Clusters, contexts []string) ([]*Cluster, error) {
	if len(contexts) == 0 {
		contexts = []string{""}
	}
	var all []*Cluster
	for _, name := range contexts {
		c, err := clusters.Open(name)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(o *Cluster) bool { return o.Context == c.Context }) {
			return nil, fmt.Errorf("context %s is named twice", c.Context)
		}
		all = append(all, c)
	}
	return all, nil
}
