package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/ledger"
)

// namespaced creates a namespace for a registry.
func namespaced(t *testing.T, name string) string {
	t.Helper()
	name = fresh(name)
	if err := server.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
	return name
}

// registered reads the registry as another process would.
func registered(t *testing.T, namespace string) string {
	t.Helper()
	all, err := ledger.NewRegistry(server, namespace).Instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	namespace := namespaced(t, "registry")
	c := newTraffic()
	r := ledger.NewRegistry(c, namespace)
	for n, step := range []struct {
		change         func(context.Context, string) error
		instance, want string
		writes         int64
	}{
		{r.Remove, "b:2379", "", 0},
		{r.Add, "b:2379", "b:2379", 1},
		{r.Add, "b:2379", "b:2379", 0},
		{r.Add, "c:2379", "b:2379 c:2379", 1},
		{r.Add, "a:2379", "a:2379 b:2379 c:2379", 1},
		{r.Add, "a:237", "a:237 a:2379 b:2379 c:2379", 1},
		{r.Remove, "b:2379", "a:237 a:2379 c:2379", 1},
		{r.Remove, "b:2379", "a:237 a:2379 c:2379", 0},
		{r.Remove, "a:237", "a:2379 c:2379", 1},
		{r.Remove, "a:2379", "c:2379", 1},
		{r.Remove, "c:2379", "", 1},
		{r.Add, "d:2379", "d:2379", 1},
	} {
		writes := c.writes.Load()
		if err := step.change(t.Context(), step.instance); err != nil {
			t.Fatal(err)
		}
		if got := registered(t, namespace); got != step.want {
			t.Errorf("step %d: got %q, want %q", n+1, got, step.want)
		}
		if n := c.writes.Load() - writes; n != step.writes {
			t.Errorf("step %d: %d writes, want %d", n+1, n, step.writes)
		}
	}
	var object corev1.ConfigMap
	if err := server.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: ledger.RegistryName}, &object); err != nil || object.Data["instances"] != "d:2379" {
		t.Errorf("got %v, %v", object.Data, err)
	}
}

// TestRegistryInConflict: several replicas register and de-register at once.
func TestRegistryInConflict(t *testing.T) {
	t.Parallel()
	namespace := namespaced(t, "registry-conflict")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			r := ledger.NewRegistry(server, namespace)
			for _, err := range []error{
				r.Add(ctx, fmt.Sprintf("stays-%d", i)), r.Add(ctx, fmt.Sprintf("goes-%d", i)), r.Remove(ctx, fmt.Sprintf("goes-%d", i)),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := registered(t, namespace); got != "stays-0 stays-1 stays-2 stays-3 stays-4 stays-5 stays-6 stays-7 stays-8 stays-9" {
		t.Errorf("got %s", got)
	}
}

func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	namespace := namespaced(t, "registry-faults")
	c := newTraffic()
	r := ledger.NewRegistry(c, namespace)
	c.interfere(func(_ context.Context, write func() error) error {
		if err := write(); err != nil {
			return err
		}
		return apierrors.NewTimeoutError("the answer was lost", 1)
	})
	if err := r.Add(t.Context(), "a:2379"); !apierrors.IsTimeout(err) || !strings.HasPrefix(err.Error(), "write registry of kvstore instances: ") {
		t.Errorf("an ambiguous write: %v", err)
	}
	c.interfere(nil)
	if err := r.Add(t.Context(), "a:2379"); err != nil || registered(t, namespace) != "a:2379" {
		t.Errorf("again: %v, %s", err, registered(t, namespace))
	}

	// Endless conflicts end with the caller's patience.
	c.interfere(func(context.Context, func() error) error {
		return apierrors.NewConflict(corev1.Resource("configmaps"), ledger.RegistryName, nil)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := r.Add(ctx, "b:2379"); err == nil {
		t.Error("a write that never took effect was a success")
	}
	c.interfere(nil)
	c.deafen(context.DeadlineExceeded)
	for what, err := range map[string]error{"add": r.Add(t.Context(), "b:2379"), "remove": r.Remove(t.Context(), "a:2379")} {
		if err == nil || err.Error() != "read registry of kvstore instances: context deadline exceeded" {
			t.Errorf("%s without a read: %v", what, err)
		}
	}
	if all, err := r.Instances(t.Context()); err == nil {
		t.Errorf("instances %v without a read", all)
	}
	if got := registered(t, namespace); got != "a:2379" {
		t.Errorf("got %s", got)
	}
}
