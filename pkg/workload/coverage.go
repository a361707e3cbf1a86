package workload

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Coverage is the index from labels to the budgets that cover pods with them.
// A look-up costs the pod's labels, however many budgets a namespace holds:
// each budget is entered under one pair of its Service's selector, the one that
// the fewest others are entered under.
//
// Informers keep it in step. It holds their objects, which nobody may change.
type Coverage struct {
	mu         sync.RWMutex
	namespaces map[string]*coverageOf
	// synced tells whether the informers have handed over what they listed.
	synced []func() bool
}

// coverageOf is the part of one namespace.
type coverageOf struct {
	// selectors by Service; an empty one selects nothing.
	selectors map[string]map[string]string
	entries   map[string]*entry
	// naming holds the entries by the Service that they name, byPair by the pair that they were entered under.
	naming map[string]map[*entry]struct{}
	byPair map[pair]map[*entry]struct{}
}

type pair struct{ key, value string }

// entry is one budget.
type entry struct {
	budget   *v1alpha1.MeshPodDisruptionBudget
	selector map[string]string
	under    pair
}

// NewCoverage returns an index that knows nothing until it follows informers.
func NewCoverage() *Coverage { return &Coverage{namespaces: map[string]*coverageOf{}} }

// Follow has informers keep the index in step. They must be made by
// [CacheOptions]: then, once Synced returns nil, the index is not older than they are, and
// knows all that whoever decided before has known at their start.
func (c *Coverage) Follow(ctx context.Context, informers cache.Informers) error {
	budgets, err := informers.GetInformer(ctx, &v1alpha1.MeshPodDisruptionBudget{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("follow budgets: %w", err)
	}
	services, err := informers.GetInformer(ctx, &corev1.Service{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("follow services: %w", err)
	}
	ofBudgets, err := budgets.AddEventHandler(handle(c.setBudget, c.removeBudget))
	if err != nil {
		return fmt.Errorf("follow budgets: %w", err)
	}
	ofServices, err := services.AddEventHandler(handle(c.setService, c.removeService))
	if err != nil {
		return fmt.Errorf("follow services: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = []func() bool{ofBudgets.HasSynced, ofServices.HasSynced}
	return nil
}

// handle makes a handler of what to do with an object that stands and one that is gone.
func handle[T any](set, remove func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { call(set, o) },
		UpdateFunc: func(_, o any) { call(set, o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			call(remove, o)
		},
	}
}

func call[T any](f func(T), o any) {
	if o, ok := o.(T); ok {
		f(o)
	}
}

// Synced returns an error until everything that was listed is in the index:
// what is not known yet must not look like nothing.
func (c *Coverage) Synced() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.synced) == 0 || slices.ContainsFunc(c.synced, func(synced func() bool) bool { return !synced() }) {
		return fmt.Errorf("budgets and services: %w", errNotListed)
	}
	return nil
}

// Of returns the budgets that cover pods with these labels, by name. They are
// the informer's: read them only.
func (c *Coverage) Of(namespace string, labels map[string]string) []*v1alpha1.MeshPodDisruptionBudget {
	c.mu.RLock()
	defer c.mu.RUnlock()
	in := c.namespaces[namespace]
	if in == nil {
		return nil
	}
	var covering []*v1alpha1.MeshPodDisruptionBudget
	for key, value := range labels {
		for e := range in.byPair[pair{key, value}] {
			if e.selects(labels) {
				covering = append(covering, e.budget)
			}
		}
	}
	slices.SortFunc(covering, func(a, b *v1alpha1.MeshPodDisruptionBudget) int { return strings.Compare(a.Name, b.Name) })
	return covering
}

// Covers tells whether any budget covers pods with these labels.
func (c *Coverage) Covers(namespace string, labels map[string]string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	in := c.namespaces[namespace]
	if in == nil {
		return false
	}
	for key, value := range labels {
		for e := range in.byPair[pair{key, value}] {
			if e.selects(labels) {
				return true
			}
		}
	}
	return false
}

func (e *entry) selects(labels map[string]string) bool {
	for key, value := range e.selector {
		if has, ok := labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// In returns the names of the budgets of a namespace, of all namespaces for "".
func (c *Coverage) In(namespace string) []types.NamespacedName {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var names []types.NamespacedName
	for _, other := range c.some(namespace) {
		for name := range c.namespaces[other].entries {
			names = append(names, types.NamespacedName{Namespace: other, Name: name})
		}
	}
	return names
}

// Named returns the name of a budget if it is there.
func (c *Coverage) Named(namespace, name string) []types.NamespacedName {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if in := c.namespaces[namespace]; in == nil || in.entries[name] == nil {
		return nil
	}
	return []types.NamespacedName{{Namespace: namespace, Name: name}}
}

// Naming returns the names of the budgets that name a Service.
func (c *Coverage) Naming(namespace, service string) []types.NamespacedName {
	c.mu.RLock()
	defer c.mu.RUnlock()
	in := c.namespaces[namespace]
	if in == nil {
		return nil
	}
	var names []types.NamespacedName
	for e := range in.naming[service] {
		names = append(names, types.NamespacedName{Namespace: namespace, Name: e.budget.Name})
	}
	return names
}

// Namespaces returns those that hold a budget, sorted.
func (c *Coverage) Namespaces() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.some("")
}

// some returns the namespaces of that name, or all, that hold a budget.
func (c *Coverage) some(namespace string) []string {
	var names []string
	for name, in := range c.namespaces {
		if (namespace == "" || name == namespace) && len(in.entries) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *Coverage) setBudget(b *v1alpha1.MeshPodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.of(b.Namespace)
	e := in.entries[b.Name]
	if e != nil && e.budget.Spec.Service == b.Spec.Service {
		e.budget = b
	} else {
		in.forget(e)
		e = &entry{budget: b}
		in.entries[b.Name] = e
		add(in.naming, b.Spec.Service, e)
	}
	in.enter(e)
}

func (c *Coverage) removeBudget(b *v1alpha1.MeshPodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in := c.namespaces[b.Namespace]; in != nil {
		in.forget(in.entries[b.Name])
		c.tidy(b.Namespace)
	}
}

func (c *Coverage) setService(s *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.of(s.Namespace)
	in.selectors[s.Name] = s.Spec.Selector
	for e := range in.naming[s.Name] {
		in.enter(e)
	}
}

func (c *Coverage) removeService(s *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.namespaces[s.Namespace]
	if in == nil {
		return
	}
	delete(in.selectors, s.Name)
	for e := range in.naming[s.Name] {
		in.enter(e)
	}
	c.tidy(s.Namespace)
}

// of returns the part of a namespace; it needs c.mu.
func (c *Coverage) of(namespace string) *coverageOf {
	in := c.namespaces[namespace]
	if in == nil {
		in = &coverageOf{
			selectors: map[string]map[string]string{}, entries: map[string]*entry{},
			naming: map[string]map[*entry]struct{}{}, byPair: map[pair]map[*entry]struct{}{},
		}
		c.namespaces[namespace] = in
	}
	return in
}

func (c *Coverage) tidy(namespace string) {
	if in := c.namespaces[namespace]; len(in.entries) == 0 && len(in.selectors) == 0 {
		delete(c.namespaces, namespace)
	}
}

// enter brings an entry to the place that its selector gives it.
func (in *coverageOf) enter(e *entry) {
	selector, exists := in.selectors[e.budget.Spec.Service]
	if !exists {
		// A Service that was deleted goes on covering its pods: grants elsewhere have counted on them.
		selector = e.budget.Status.Selector
	}
	if maps.Equal(selector, e.selector) {
		e.selector = selector
		return
	}
	in.leave(e)
	e.selector, e.under = selector, pair{}
	first := true
	for key, value := range selector {
		if p := (pair{key, value}); first || len(in.byPair[p]) < len(in.byPair[e.under]) {
			e.under, first = p, false
		}
	}
	if !first {
		add(in.byPair, e.under, e)
	}
}

func (in *coverageOf) leave(e *entry) {
	if len(e.selector) > 0 {
		remove(in.byPair, e.under, e)
	}
}

// forget takes an entry out; nil is none.
func (in *coverageOf) forget(e *entry) {
	if e == nil {
		return
	}
	in.leave(e)
	remove(in.naming, e.budget.Spec.Service, e)
	delete(in.entries, e.budget.Name)
}

func add[K comparable](to map[K]map[*entry]struct{}, key K, e *entry) {
	if to[key] == nil {
		to[key] = map[*entry]struct{}{}
	}
	to[key][e] = struct{}{}
}

func remove[K comparable](from map[K]map[*entry]struct{}, key K, e *entry) {
	if delete(from[key], e); len(from[key]) == 0 {
		delete(from, key)
	}
}
