package workload

import (
	"cmp"
	"context"
	"slices"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Dependents finds the available covered pods that go when an object is
// deleted: a node, a namespace or an owner. It asks memory only.
//
// It keeps no index: deletions of such objects are rare, and one pass over the
// pods of the namespaces that hold a budget takes less than 20 ms per
// 100,000 of them (BenchmarkDependentsOfNode), and holds up no more than one
// namespace at a time.
type Dependents struct {
	*Workload
	// Running are the pods of the Workload.
	Running *Pods
	// Cluster is the own cluster's name.
	Cluster string
	// Protected namespaces are those whose pods are never held up.
	Protected []string
}

// Loss is what goes with an object.
type Loss struct {
	// Pods that are available and covered, each counted once.
	Pods int
	// Budgets that cover them, by namespace and name.
	Budgets []BudgetLoss
}

// BudgetLoss is what one budget loses with an object.
type BudgetLoss struct {
	// Budget is the informer's: read it only.
	Budget *v1alpha1.MeshPodDisruptionBudget
	// Pods that are available now.
	Pods int
}

// Owner is a controller of pods, or a Deployment.
type Owner struct {
	Kind, Namespace, Name string
	UID                   types.UID
}

// OfNode returns what goes with a node.
func (d *Dependents) OfNode(ctx context.Context, name string) (Loss, error) {
	// Handles of equal strings are equal, so a pass over all pods compares no strings.
	node := unique.Make(name)
	return d.loss(ctx, d.Coverage.Namespaces(), func(r *record) bool { return r.node == node })
}

// OfNamespace returns what goes with a namespace.
func (d *Dependents) OfNamespace(ctx context.Context, name string) (Loss, error) {
	return d.loss(ctx, []string{name}, func(*record) bool { return true })
}

// OfOwner returns what goes with an owner whose pods are not orphaned.
func (d *Dependents) OfOwner(ctx context.Context, o Owner) (Loss, error) {
	owns := func(r *record) bool { return r.owner.Value().uid == string(o.UID) }
	if o.Kind == "Deployment" {
		owns = func(r *record) bool { return r.deployedBy(o.Name) }
	}
	return d.loss(ctx, []string{o.Namespace}, owns)
}

// loss counts the available pods of the given namespaces that the object takes.
func (d *Dependents) loss(ctx context.Context, namespaces []string, takes func(*record) bool) (Loss, error) {
	// What is not known yet must not look like nothing.
	if err := d.Coverage.Synced(); err != nil {
		return Loss{}, err
	}
	if err := d.Running.hasListed(); err != nil {
		return Loss{}, err
	}
	var all Loss
	for _, namespace := range namespaces {
		if slices.Contains(d.Protected, namespace) {
			continue
		}
		going := d.Running.available(namespace, takes)
		// The pods of a terminating namespace are past saving.
		if len(going) > 0 && !d.Terminating(ctx, namespace) {
			all.add(going, d.enforced)
		}
	}
	return all, nil
}

// enforced are the budgets that hold up disruptions of the pod here.
func (d *Dependents) enforced(r *record) []*v1alpha1.MeshPodDisruptionBudget {
	covering := d.Coverage.Of(r.namespace.Value(), splitLabels(r.labels))
	return slices.DeleteFunc(covering, func(b *v1alpha1.MeshPodDisruptionBudget) bool {
		return b.DeletionTimestamp != nil || b.Spec.Suspend || len(b.Spec.Clusters) > 0 && !slices.Contains(b.Spec.Clusters, d.Cluster)
	})
}

// add counts the pods of one more namespace.
func (l *Loss) add(going []*record, covering func(*record) []*v1alpha1.MeshPodDisruptionBudget) {
	lost := map[string]*BudgetLoss{}
	for _, r := range going {
		budgets := covering(r)
		if len(budgets) > 0 {
			l.Pods++
		}
		for _, b := range budgets {
			if lost[b.Name] == nil {
				lost[b.Name] = &BudgetLoss{Budget: b}
			}
			lost[b.Name].Pods++
		}
	}
	for _, b := range lost {
		l.Budgets = append(l.Budgets, *b)
	}
	slices.SortFunc(l.Budgets, func(a, b BudgetLoss) int {
		return cmp.Or(cmp.Compare(a.Budget.Namespace, b.Budget.Namespace), cmp.Compare(a.Budget.Name, b.Budget.Name))
	})
}

// available returns the available pods of a namespace that an object takes.
func (p *Pods) available(namespace string, takes func(*record) bool) []*record {
	p.mu.RLock()
	defer p.mu.RUnlock()
	in := p.namespaces[namespace]
	if in == nil {
		return nil
	}
	var found []*record
	for _, r := range in.byName {
		if takes(r) && r.available() {
			found = append(found, r)
		}
	}
	return found
}

// available is Availability of a record, mirrors left out.
func (r *record) available() bool {
	phase := corev1.PodPhase(r.phase.Value())
	return r.ready && !r.mirror && r.deleted == 0 && phase != corev1.PodSucceeded && phase != corev1.PodFailed
}

// deployedBy reports whether a Deployment of this name has made the pod's
// ReplicaSet. The ReplicaSet need not be looked up: it has the Deployment's
// name and the hash that its pods carry as a label (getNewReplicaSet and
// generateReplicaSetName in Kubernetes' pkg/controller/deployment/sync.go).
// One that the Deployment adopted under another name is not found this way.
func (r *record) deployedBy(deployment string) bool {
	o := r.owner.Value()
	if o.kind != "ReplicaSet" {
		return false
	}
	hash, labelled := r.label(appsv1.DefaultDeploymentUniqueLabelKey)
	if !labelled {
		return false
	}
	longest := max(validation.DNS1123SubdomainMaxLength-len("-")-len(hash), 0)
	return o.name == deployment[:min(len(deployment), longest)]+"-"+hash
}
