package workload

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// listedCoverage has heard of the objects.
func listedCoverage(objects ...client.Object) *Coverage {
	c := NewCoverage()
	c.synced = []func() bool{func() bool { return true }}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			c.setService(o)
		case *v1alpha1.MeshPodDisruptionBudget:
			c.setBudget(o)
		}
	}
	return c
}

// world is what Coverage heard, kept in the simplest way.
type world struct {
	budgets  map[string]*v1alpha1.MeshPodDisruptionBudget
	services map[string]*corev1.Service
}

// covering asks every budget by its Service, as a decision would without an index.
func (w world) covering(namespace string, podLabels map[string]string) []string {
	var names []string
	for _, b := range w.budgets {
		if b.Namespace != namespace {
			continue
		}
		selector := b.Status.Selector
		if s, exists := w.services[b.Namespace+"/"+b.Spec.Service]; exists {
			selector = s.Spec.Selector
		}
		if len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(podLabels)) {
			names = append(names, b.Name)
		}
	}
	slices.Sort(names)
	return names
}

func TestCoverageFindsWhatAskingAllFinds(t *testing.T) {
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		c, w := NewCoverage(), world{map[string]*v1alpha1.MeshPodDisruptionBudget{}, map[string]*corev1.Service{}}
		some := func(none int) map[string]string {
			if random.IntN(none) == 0 {
				return nil
			}
			chosen := map[string]string{}
			for _, key := range []string{"app", "tier", "zone"} {
				if random.IntN(2) == 0 {
					chosen[key] = fmt.Sprint(random.IntN(3))
				}
			}
			return chosen
		}
		budgets := handle(c.setBudget, c.removeBudget)
		services := handle(c.setService, c.removeService)
		for step := range 1000 {
			namespace := fmt.Sprint("n", random.IntN(2))
			switch random.IntN(5) {
			case 0, 1:
				b := budgetOf(fmt.Sprint("b", random.IntN(12)), fmt.Sprint("s", random.IntN(5)))
				b.Namespace, b.Status.Selector = namespace, some(2)
				old := w.budgets[namespace+"/"+b.Name]
				w.budgets[namespace+"/"+b.Name] = b
				if old == nil {
					budgets.OnAdd(b, false)
				} else {
					budgets.OnUpdate(old, b)
				}
			case 2:
				s := &corev1.Service{ObjectMeta: named(fmt.Sprint("s", random.IntN(5)), "u"), Spec: corev1.ServiceSpec{Selector: some(4)}}
				s.Namespace = namespace
				w.services[namespace+"/"+s.Name] = s
				services.OnAdd(s, false)
			case 3:
				name := fmt.Sprint("b", random.IntN(12))
				if b := w.budgets[namespace+"/"+name]; b != nil {
					delete(w.budgets, namespace+"/"+name)
					budgets.OnDelete(toolscache.DeletedFinalStateUnknown{Obj: b})
				}
			case 4:
				name := fmt.Sprint("s", random.IntN(5))
				if s := w.services[namespace+"/"+name]; s != nil {
					delete(w.services, namespace+"/"+name)
					services.OnDelete(s)
				}
			}
			podLabels := some(5)
			var got []string
			for _, b := range c.Of(namespace, podLabels) {
				if b != w.budgets[namespace+"/"+b.Name] {
					t.Fatalf("seed %d step %d: budget %s is an outdated one", seed, step, b.Name)
				}
				got = append(got, b.Name)
			}
			if want := w.covering(namespace, podLabels); !slices.Equal(got, want) || c.Covers(namespace, podLabels) != (len(want) > 0) {
				t.Fatalf("seed %d step %d: %v in %s is covered by %v, want %v", seed, step, podLabels, namespace, got, want)
			}
			w.compareNames(t, c, namespace)
		}
		for _, b := range w.budgets {
			budgets.OnDelete(b)
		}
		for _, s := range w.services {
			services.OnDelete(s)
		}
		if len(c.namespaces) > 0 {
			t.Errorf("seed %d: %d namespaces are left of nothing", seed, len(c.namespaces))
		}
	}
}

func (w world) compareNames(t *testing.T, c *Coverage, namespace string) {
	t.Helper()
	var in, everywhere, naming, namespaces []string
	for key, b := range w.budgets {
		everywhere = append(everywhere, key)
		namespaces = append(namespaces, b.Namespace)
		if b.Namespace == namespace {
			in = append(in, key)
			if b.Spec.Service == "s1" {
				naming = append(naming, key)
			}
		}
	}
	slices.Sort(namespaces)
	if got := c.Namespaces(); !slices.Equal(got, slices.Compact(namespaces)) {
		t.Fatalf("namespaces %v, want %v", got, slices.Compact(namespaces))
	}
	for _, row := range []struct {
		got  []string
		want []string
	}{{spelledNames(c.In(namespace)), in}, {spelledNames(c.In("")), everywhere}, {spelledNames(c.Naming(namespace, "s1")), naming}} {
		if slices.Sort(row.want); !slices.Equal(row.got, row.want) {
			t.Fatalf("budgets %v, want %v", row.got, row.want)
		}
	}
}

func spelledNames[T fmt.Stringer](names []T) []string {
	var all []string
	for _, n := range names {
		all = append(all, n.String())
	}
	slices.Sort(all)
	return all
}

// One label that all budgets share must not make each look-up ask them all.
func TestCoverageEntersUnderTheRarestPair(t *testing.T) {
	c := NewCoverage()
	for i := range 1000 {
		name := fmt.Sprint("app-", i)
		c.setService(&corev1.Service{ObjectMeta: named(name, "u"), Spec: corev1.ServiceSpec{Selector: map[string]string{"part-of": "shop", "app": name, "env": "prod"}}})
		c.setBudget(budgetOf(name, name))
	}
	crowded := 0
	for _, entries := range c.namespaces["n"].byPair {
		crowded = max(crowded, len(entries))
	}
	if crowded > 2 {
		t.Errorf("%d budgets are entered under one pair", crowded)
	}
}

func BenchmarkBudgetsOf(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("budgets=%d", n), func(b *testing.B) {
			c := NewCoverage()
			c.synced = []func() bool{func() bool { return true }}
			for i := range n {
				name := fmt.Sprint("app-", i)
				c.setService(&corev1.Service{ObjectMeta: named(name, "u"), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name, "part-of": "shop"}}})
				c.setBudget(budgetOf(name, name))
			}
			w := &Workload{Coverage: c}
			pod := labelled("p", "app-7")
			maps.Copy(pod.Labels, map[string]string{"part-of": "shop", "pod-template-hash": "x", "zone": "a"})
			b.ReportAllocs()
			for b.Loop() {
				if covering, err := w.BudgetsOf(b.Context(), pod); err != nil || len(covering) != 1 {
					b.Fatal(len(covering), err)
				}
			}
		})
	}
}
