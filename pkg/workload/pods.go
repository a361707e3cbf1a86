package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"
)

// listPage is how many pods one answer of the API server may hold where it
// does not stream them.
const listPage = 1000

// endsRemembered bounds the memory of pods that have ended, to some 400 KiB. Who asks does so within seconds, of pods
// whose disruption was claimed; beyond it he asks the API server.
const endsRemembered = 2048

// errNotListed: what is not known yet must not look like nothing.
var errNotListed = errors.New("not listed yet")

// Pods are all pods of the cluster, kept in step by a watch while Run runs.
//
// It is a store of its own below client-go's Reflector rather than a shared
// informer: pods are made compact one by one as they are decoded, so that
// neither the store nor the list that fills it ever holds them whole.
type Pods struct {
	lister cache.ListerWatcher
	listed chan struct{}
	once   sync.Once

	// ended are the UIDs of the pods that the watch has seen end last.
	ended *lru.Cache

	mu         sync.RWMutex
	namespaces map[string]*podsOf
	listeners  []func(namespace string, labels map[string]string)
}

// podsOf are the pods of one namespace.
type podsOf struct {
	byName map[string]*record
	// byLabel holds, for each key that was ever selected by, the records by value.
	byLabel map[string]map[string]map[*record]struct{}
}

// NewPods returns the pods that a client sees. A client that speaks protobuf
// decodes them in half the time.
func NewPods(client kubernetes.Interface) *Pods {
	p := &Pods{listed: make(chan struct{}), ended: lru.New(endsRemembered), namespaces: map[string]*podsOf{}}
	pods := client.CoreV1().Pods(metav1.NamespaceAll)
	p.lister = cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return listCompact(ctx, options, pods.List)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return pods.Watch(ctx, options)
		},
	}, client)
	return p
}

// listCompact lists page by page, for API servers that do not stream lists:
// one answer with everything would be in memory whole.
func listCompact(ctx context.Context, options metav1.ListOptions, list func(context.Context, metav1.ListOptions) (*corev1.PodList, error)) (runtime.Object, error) {
	// Version 0 would make the API server ignore the limit, and may be answered by what
	// has long changed (ListAfresh). No list by quorum is older than what was seen before.
	options.ResourceVersion, options.ResourceVersionMatch, options.Limit = "", "", listPage
	all := &recordList{}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			all.Items = append(all.Items, compact(&page.Items[i]))
		}
		all.ResourceVersion = page.ResourceVersion
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// Run keeps the pods in step until ctx ends.
func (p *Pods) Run(ctx context.Context) error {
	cache.NewReflectorWithOptions(p.lister, &corev1.Pod{}, podStore{p}, cache.ReflectorOptions{Name: "pods"}).RunWithContext(ctx)
	return nil
}

// WaitForSync returns once all pods were listed.
func (p *Pods) WaitForSync(ctx context.Context) error {
	select {
	case <-p.listed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("list pods: %w", context.Cause(ctx))
	}
}

func (p *Pods) hasListed() error {
	select {
	case <-p.listed:
		return nil
	default:
		return fmt.Errorf("pods: %w", errNotListed)
	}
}

// OnChange is told the namespace and labels of each pod that comes, goes or
// changes in what matters here; twice, if the labels themselves change. It must
// not block.
func (p *Pods) OnChange(listener func(namespace string, labels map[string]string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners = append(p.listeners, listener)
}

// Get returns a pod, nil if there is none.
func (p *Pods) Get(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if err := p.hasListed(); err != nil {
		return nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	in := p.namespaces[namespace]
	if in == nil || in.byName[name] == nil {
		return nil, nil
	}
	return in.byName[name].pod(), nil
}

// SawEnd implements PodReader. What a list lacks is not seen to end: it may be from before the pod.
func (p *Pods) SawEnd(uid string) bool {
	_, ended := p.ended.Get(uid)
	return ended
}

// Select returns the pods that have all pairs of a selector, by name and without
// their labels and tolerations. It costs what it returns, but for the first time that a key is
// selected by.
func (p *Pods) Select(_ context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	if err := p.hasListed(); err != nil {
		return nil, err
	}
	p.index(namespace, selector)
	p.mu.RLock()
	defer p.mu.RUnlock()
	in := p.namespaces[namespace]
	if in == nil || len(selector) == 0 {
		return nil, nil
	}
	found := in.matching(selector)
	slices.SortFunc(found, func(a, b *record) int { return strings.Compare(a.name, b.name) })
	pods := make([]corev1.Pod, len(found))
	for i, r := range found {
		r.fill(&pods[i])
	}
	return pods, nil
}

// OnNode calls f with the namespace and labels of each pod that is bound to a
// node, terminating ones included. It looks at all pods, some 10 ms for 100,000:
// it is for what seldom happens to a node.
func (p *Pods) OnNode(node string, f func(namespace string, labels map[string]string)) {
	bound := unique.Make(node)
	var found []*record
	p.mu.RLock()
	for _, in := range p.namespaces {
		for _, r := range in.byName {
			if r.node == bound {
				found = append(found, r)
			}
		}
	}
	p.mu.RUnlock()
	for _, r := range found {
		f(r.namespace.Value(), splitLabels(r.labels))
	}
}

func (in *podsOf) matching(selector map[string]string) []*record {
	var found []*record
	var fewest map[*record]struct{}
	indexed := false
	for key, value := range selector {
		if values := in.byLabel[key]; values != nil && (!indexed || len(values[value]) < len(fewest)) {
			fewest, indexed = values[value], true
		}
	}
	for r := range fewest {
		if r.matches(selector) {
			found = append(found, r)
		}
	}
	if !indexed {
		// The namespace's first pod has come since it was looked at.
		for _, r := range in.byName {
			if r.matches(selector) {
				found = append(found, r)
			}
		}
	}
	return found
}

// index makes all keys of a selector ones that pods are found by.
func (p *Pods) index(namespace string, selector map[string]string) {
	p.mu.RLock()
	in := p.namespaces[namespace]
	missing := in != nil && slices.ContainsFunc(slices.Collect(maps.Keys(selector)), func(key string) bool { return in.byLabel[key] == nil })
	p.mu.RUnlock()
	if !missing {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if in = p.namespaces[namespace]; in == nil {
		return
	}
	for key := range selector {
		if in.byLabel[key] != nil {
			continue
		}
		in.byLabel[key] = map[string]map[*record]struct{}{}
		for _, r := range in.byName {
			in.enter(key, r)
		}
	}
}

func (in *podsOf) enter(key string, r *record) {
	value, has := r.label(key)
	if !has {
		return
	}
	if in.byLabel[key][value] == nil {
		in.byLabel[key][value] = map[*record]struct{}{}
	}
	in.byLabel[key][value][r] = struct{}{}
}

func (in *podsOf) leave(key string, r *record) {
	value, has := r.label(key)
	if !has {
		return
	}
	if delete(in.byLabel[key][value], r); len(in.byLabel[key][value]) == 0 {
		delete(in.byLabel[key], value)
	}
}

// put replaces the record of a pod; it needs p.mu. It returns the one before.
func (p *Pods) put(r *record) *record {
	namespace := r.namespace.Value()
	in := p.namespaces[namespace]
	if in == nil {
		in = &podsOf{byName: map[string]*record{}, byLabel: map[string]map[string]map[*record]struct{}{}}
		p.namespaces[namespace] = in
	}
	old := in.byName[r.name]
	in.byName[r.name] = r
	for key := range in.byLabel {
		if old != nil {
			in.leave(key, old)
		}
		in.enter(key, r)
	}
	return old
}

// drop removes the record of a pod; it needs p.mu.
func (p *Pods) drop(namespace, name string) *record {
	in := p.namespaces[namespace]
	if in == nil || in.byName[name] == nil {
		return nil
	}
	old := in.byName[name]
	for key := range in.byLabel {
		in.leave(key, old)
	}
	if delete(in.byName, name); len(in.byName) == 0 {
		delete(p.namespaces, namespace)
	}
	return old
}

// tell hands a change to the listeners; either record may be nil.
func (p *Pods) tell(before, after *record) {
	if before != nil && after != nil && before.same(after) {
		return
	}
	p.mu.RLock()
	listeners := p.listeners
	p.mu.RUnlock()
	if len(listeners) == 0 {
		return
	}
	if before != nil && after != nil && before.labels == after.labels {
		before = nil
	}
	for _, r := range []*record{before, after} {
		if r == nil {
			continue
		}
		labels := splitLabels(r.labels)
		for _, listener := range listeners {
			listener(r.namespace.Value(), labels)
		}
	}
}

// podStore lets a Reflector fill Pods.
type podStore struct{ pods *Pods }

var _ cache.TransformingStore = podStore{}

// Transformer implements cache.TransformingStore: a list that streams in is
// made compact before it is gathered.
func (s podStore) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		switch o := o.(type) {
		case *record:
			return o, nil
		case *corev1.Pod:
			return compact(o), nil
		}
		return nil, fmt.Errorf("make pod compact: it is a %T", o)
	}
}

func (s podStore) record(o any) (*record, error) {
	made, err := s.Transformer()(o)
	if err != nil {
		return nil, err
	}
	return made.(*record), nil
}

// Add implements cache.ReflectorStore.
func (s podStore) Add(o any) error { return s.Update(o) }

// Update implements cache.ReflectorStore.
func (s podStore) Update(o any) error {
	r, err := s.record(o)
	if err != nil {
		return err
	}
	if r.deleted != 0 {
		s.pods.ended.Add(r.uid, nil)
	}
	s.pods.mu.Lock()
	old := s.pods.put(r)
	s.pods.mu.Unlock()
	s.pods.tell(old, r)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s podStore) Delete(o any) error {
	r, err := s.record(o)
	if err != nil {
		return err
	}
	s.pods.ended.Add(r.uid, nil)
	s.pods.mu.Lock()
	old := s.pods.drop(r.namespace.Value(), r.name)
	s.pods.mu.Unlock()
	if old != nil {
		s.pods.tell(old, nil)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (s podStore) Replace(all []any, _ string) error {
	stay := make(map[*record]struct{}, len(all))
	type change struct{ before, after *record }
	var changes []change
	s.pods.mu.Lock()
	for _, o := range all {
		r, err := s.record(o)
		if err != nil {
			s.pods.mu.Unlock()
			return err
		}
		stay[r] = struct{}{}
		changes = append(changes, change{s.pods.put(r), r})
	}
	for namespace, in := range s.pods.namespaces {
		for name, r := range in.byName {
			if _, stays := stay[r]; !stays {
				changes = append(changes, change{s.pods.drop(namespace, name), nil})
			}
		}
	}
	s.pods.mu.Unlock()
	first := false
	s.pods.once.Do(func() { first = true; close(s.pods.listed) })
	if first {
		// Whoever waited for the list looks at everything anyway.
		return nil
	}
	for _, c := range changes {
		s.pods.tell(c.before, c.after)
	}
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to send again.
func (s podStore) Resync() error { return nil }
