package workload

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Scope returns the clusters that take part in a budget, sorted: those that
// its spec names, else those that its status remembers. It is empty until the
// controller has looked at a budget that names none.
func Scope(b *v1alpha1.MeshPodDisruptionBudget) []string {
	if len(b.Spec.Clusters) > 0 {
		return slices.Sorted(slices.Values(b.Spec.Clusters))
	}
	names := make([]string, 0, len(b.Status.Clusters))
	for _, c := range b.Status.Clusters {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return names
}

// Scope reads the scope of a budget by quorum.
func (w *Workload) Scope(ctx context.Context, namespace, name string) ([]string, error) {
	var b v1alpha1.MeshPodDisruptionBudget
	if err := w.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &b); err != nil {
		return nil, fmt.Errorf("read budget %s/%s: %w", namespace, name, err)
	}
	return Scope(&b), nil
}

// Covering returns what a decision needs to know of a budget.
func Covering(b *v1alpha1.MeshPodDisruptionBudget) claim.Covering {
	c := claim.Covering{Name: b.Namespace + "/" + b.Name, Clusters: Scope(b), LastKnown: map[string][]budget.Bound{}}
	for _, known := range b.Status.Clusters {
		if bound, ok := budget.ParseBound(known.Bound); ok {
			c.LastKnown[known.Name] = []budget.Bound{bound}
		}
	}
	return c
}
