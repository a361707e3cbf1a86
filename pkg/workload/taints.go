package workload

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/meshpdb/meshpdb/pkg/paths"
)

// Taints is the index of the nodes that somebody wants empty: those that work,
// but have a NoExecute taint. It holds nothing of all other nodes.
//
// An informer keeps it in step. Whoever is told of a change finds it in the index.
type Taints struct {
	mu        sync.RWMutex
	nodes     map[string][]corev1.Taint
	listeners []func(node string)
	synced    func() bool
}

// NewTaints returns an index that knows nothing until it follows informers.
func NewTaints() *Taints { return &Taints{nodes: map[string][]corev1.Taint{}} }

// Follow has an informer keep the index in step.
func (t *Taints) Follow(ctx context.Context, informers cache.Informers) error {
	nodes, err := informers.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("follow nodes: %w", err)
	}
	handler, err := nodes.AddEventHandler(handle(
		func(n *corev1.Node) { t.set(n.Name, Evicting(n)) },
		func(n *corev1.Node) { t.set(n.Name, nil) },
	))
	if err != nil {
		return fmt.Errorf("follow nodes: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.synced = handler.HasSynced
	return nil
}

// Synced returns an error until all nodes that were listed are in the index.
func (t *Taints) Synced() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.synced == nil || !t.synced() {
		return fmt.Errorf("nodes: %w", errNotListed)
	}
	return nil
}

// Of returns what Evicting does for a node. It is the informer's: read it only.
func (t *Taints) Of(node string) []corev1.Taint {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[node]
}

// OnChange is told each node whose taints come, go or change in the index. It
// must not block.
func (t *Taints) OnChange(listener func(node string)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.listeners = append(t.listeners, listener)
}

func (t *Taints) set(node string, taints []corev1.Taint) {
	t.mu.Lock()
	same := equality.Semantic.DeepEqual(t.nodes[node], taints)
	if len(taints) > 0 {
		t.nodes[node] = taints
	} else {
		delete(t.nodes, node)
	}
	listeners := t.listeners
	t.mu.Unlock()
	if same {
		return
	}
	for _, listener := range listeners {
		listener(node)
	}
}

// Evicting returns the taints by which somebody wants pods off a node that
// works. A node that is not Ready has none, and those that stand for a failed
// node are not among them: what they do Kubernetes does itself, and no budget holds it up.
func Evicting(node *corev1.Node) []corev1.Taint {
	if !paths.NodeReady(node) || node.DeletionTimestamp != nil {
		return nil
	}
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute && !paths.Failing(taint.Key) {
			taints = append(taints, taint)
		}
	}
	return taints
}
