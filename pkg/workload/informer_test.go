package workload

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// behind is an API server that does not stream lists. Its watch cache has not
// heard of the last object of each kind, and its watches tell nothing of it.
type behind struct {
	// objects by resource, in the order in which they came.
	objects map[string][]client.Object
	// expire is sent to once, to end a watch of services as too old.
	expire chan struct{}

	mu    sync.Mutex
	lists map[string][]string
}

// freshest is the version at which all objects stand.
const freshest = "105"

// ServeHTTP implements http.Handler.
func (b *behind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	query := r.URL.Query()
	switch {
	case query.Get("sendInitialEvents") == "true":
		answer(w, http.StatusUnprocessableEntity, &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
	case query.Get("watch") == "true":
		b.watch(w, r, resource)
	default:
		b.list(w, resource, query.Get("resourceVersion"), query.Get("continue"))
	}
}

func (b *behind) watch(w http.ResponseWriter, r *http.Request, resource string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	expire := b.expire
	if resource != "services" {
		expire = nil
	}
	select {
	case <-r.Context().Done():
	case <-expire:
		gone := metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone}
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "ERROR", "object": gone})
	}
}

// list answers a quorum list page by page, one object each.
func (b *behind) list(w http.ResponseWriter, resource, version, from string) {
	b.mu.Lock()
	b.lists[resource] = append(b.lists[resource], version)
	b.mu.Unlock()
	items, list := b.objects[resource], metav1.ListMeta{ResourceVersion: freshest}
	switch {
	case version == "0":
		items, list.ResourceVersion = items[:len(items)-1], "100"
	case version == "":
		page := 0
		fmt.Sscan(from, &page)
		if page+1 < len(items) {
			list.Continue = fmt.Sprint(page + 1)
		}
		items = items[page : page+1]
	}
	answer(w, http.StatusOK, map[string]any{"metadata": list, "items": items})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// listed returns the versions that lists of a resource asked for.
func (b *behind) listed(resource string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lists[resource])
}

// start lets informers of the package's options follow the server.
func (b *behind) start(t *testing.T) *Coverage {
	t.Helper()
	served := httptest.NewServer(b)
	t.Cleanup(served.Close)
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	for kind := range scheme.AllKnownTypes() {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	options := CacheOptions()
	options.Scheme, options.Mapper = scheme, mapper
	informers, err := cache.New(&rest.Config{Host: served.URL}, options)
	if err != nil {
		t.Fatal(err)
	}
	c := NewCoverage()
	if err := c.Follow(t.Context(), informers); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := informers.Start(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(running.Wait)
	return c
}

func newBehind() *behind {
	first, second := service("db", "db"), service("web", "web")
	first.ResourceVersion, second.ResourceVersion = "90", freshest
	one, two := budgetOf("one", "db"), budgetOf("two", "db")
	one.ResourceVersion, two.ResourceVersion = "91", "104"
	return &behind{
		objects: map[string][]client.Object{"services": {first, second}, "meshpoddisruptionbudgets": {one, two}},
		expire:  make(chan struct{}), lists: map[string][]string{},
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit, tick := time.NewTimer(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer limit.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// A replica that has just started decides by all budgets that stand, though its
// API server's watch cache does not know them all and its watches tell nothing.
func TestInformersBeginWithAllThatStands(t *testing.T) {
	c := newBehind().start(t)
	await(t, "the index is in step", func() bool { return c.Synced() == nil })
	if covering := c.Of("n", map[string]string{"app": "db"}); len(covering) != 2 {
		t.Errorf("%d of 2 budgets cover a pod", len(covering))
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if selectors := c.namespaces["n"].selectors; len(selectors) != 2 {
		t.Errorf("services: %v", selectors)
	}
}

// When a watch has ended, an informer lists what is not older than what it has seen.
func TestInformersNeverGoBackInTime(t *testing.T) {
	server := newBehind()
	c := server.start(t)
	await(t, "the index is in step", func() bool { return c.Synced() == nil })
	select {
	case server.expire <- struct{}{}:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody watches")
	}
	pages := len(server.objects["services"])
	await(t, "services are listed again", func() bool { return len(server.listed("services")) > pages })
	if got := server.listed("services"); !slices.Equal(got[:pages+1], []string{"", "", freshest}) {
		t.Errorf("listed by the versions %q", got)
	}
}
