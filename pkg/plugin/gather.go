package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/checkup"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// gather asks one cluster for the facts of a checkup. What fails is one of them.
func (o *doctorOptions) gather(ctx context.Context, c *Cluster) checkup.Facts {
	f := checkup.Facts{
		Context: c.Context, Namespace: o.namespace, PluginVersion: o.Version,
		Services: map[string]*corev1.Service{}, Namespaces: map[string]*corev1.Namespace{},
	}
	object, err := found(c.Kube.CoreV1().ConfigMaps(o.namespace).Get(ctx, roster.ConfigMap, metav1.GetOptions{}))
	switch {
	case err != nil:
		f.RosterErr = err
	case object == nil:
		f.RosterMissing = true
	default:
		f.Roster, f.RosterErr = roster.Read(object.Data)
	}
	f.Validating, f.WebhookErr = found(c.Kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, "meshpdb", metav1.GetOptions{}))
	if f.WebhookErr == nil {
		var mutating *admissionv1.MutatingWebhookConfiguration
		mutating, f.WebhookErr = found(c.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "meshpdb", metav1.GetOptions{}))
		f.Mutating = mutating
	}
	o.gatherRBAC(ctx, c, &f)
	if f.Budgets, f.BudgetsErr = c.budgets(ctx, ""); f.BudgetsErr == nil {
		o.gatherBudgets(ctx, c, &f)
	}
	// After everything, so that nothing is younger than now.
	f.Now = o.Now()
	return f
}

// found turns "there is none" into nil.
func found[T any](object *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return object, nil
}

func (o *doctorOptions) gatherRBAC(ctx context.Context, c *Cluster, f *checkup.Facts) {
	rbac := c.Kube.RbacV1()
	var errs [4]error
	f.ClusterRole, errs[0] = found(rbac.ClusterRoles().Get(ctx, controllerName, metav1.GetOptions{}))
	f.Role, errs[1] = found(rbac.Roles(o.namespace).Get(ctx, controllerName, metav1.GetOptions{}))
	everywhere, err := found(rbac.ClusterRoleBindings().Get(ctx, controllerName, metav1.GetOptions{}))
	errs[2] = err
	own, err := found(rbac.RoleBindings(o.namespace).Get(ctx, controllerName, metav1.GetOptions{}))
	errs[3] = err
	f.RBACErr = errors.Join(errs[:]...)
	account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: o.namespace, Name: controllerName}
	if everywhere != nil && everywhere.RoleRef.Name == controllerName && slices.Contains(everywhere.Subjects, account) {
		f.Bindings = append(f.Bindings, "ClusterRoleBinding "+controllerName)
	}
	if own != nil && own.RoleRef.Name == controllerName && slices.Contains(own.Subjects, account) {
		f.Bindings = append(f.Bindings, "RoleBinding "+controllerName)
	}
}

// gatherBudgets looks up what budgets name, and asks the webhook about one of their pods.
func (o *doctorOptions) gatherBudgets(ctx context.Context, c *Cluster, f *checkup.Facts) {
	covering := newCoverage(c)
	var errs []error
	for i := range f.Budgets {
		b := &f.Budgets[i]
		service, err := covering.service(ctx, b.Namespace, b.Spec.Service)
		if err != nil {
			errs = append(errs, err)
		} else if service != nil {
			f.Services[b.Namespace+"/"+b.Spec.Service] = service
		}
		if _, known := f.Namespaces[b.Namespace]; !known {
			namespace, err := found(c.Kube.CoreV1().Namespaces().Get(ctx, b.Namespace, metav1.GetOptions{}))
			if err != nil {
				errs = append(errs, fmt.Errorf("read namespace %s: %w", b.Namespace, err))
			}
			f.Namespaces[b.Namespace] = namespace
		}
	}
	f.LookupErr = errors.Join(errs...)
	for i := range f.Budgets {
		b := &f.Budgets[i]
		namespace := f.Namespaces[b.Namespace]
		if namespace == nil || namespace.Labels[v1alpha1.NamespaceLabel] != v1alpha1.NamespaceLabelValue {
			continue
		}
		f.Probe = o.probe(ctx, c, covering, b)
		if f.Probe.Pod != "" {
			return
		}
	}
}

// probe asks for the dry-run eviction of a pod of the budget. If it has none, of
// one that does not exist: the mutating webhook is asked all the same.
func (o *doctorOptions) probe(ctx context.Context, c *Cluster, covering *coverage, b *v1alpha1.MeshPodDisruptionBudget) checkup.Probe {
	name := "meshpdb-doctor"
	if selector, err := covering.selector(ctx, b); err == nil && !selector.Empty() {
		pods, err := c.Kube.CoreV1().Pods(b.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String(), Limit: 50})
		if err == nil {
			if i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return free(&p) == "" }); i >= 0 {
				name = pods.Items[i].Name
			}
		}
	}
	start := o.Now()
	err := c.DryRunEvict(ctx, b.Namespace, name)
	return checkup.Probe{Pod: b.Namespace + "/" + name, Took: o.Now().Sub(start), Err: err}
}
