package decide

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// spans notes what is traced as "parent>span", and problems behind it.
type spans struct {
	mu  sync.Mutex
	all []string
}

type parent struct{}

func (s *spans) trace(ctx context.Context, step, cluster string) (context.Context, func(string)) {
	name := step
	if cluster != "" {
		name += " " + cluster
	}
	above, _ := ctx.Value(parent{}).(string)
	return context.WithValue(ctx, parent{}, step), func(problem string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, above+">"+name+problem)
	}
}

func TestStepsAndReadsAreTraced(t *testing.T) {
	s, traced := newStage(), &spans{}
	s.fresh["c3"] = unread("c3", ": no connection")
	s.cached["c3"] = s.fresh["c3"]
	d := s.decider(t, func(c *Config) { c.Trace = traced.trace })
	r := request()
	r.DryRun = true
	r.Budgets[0].Clusters = []string{"c1", "c2", "c3"}
	decideOn(t.Context(), d, r)
	slices.Sort(traced.all)
	expect(t, "spans of a preview", traced.all, []string{">ReadCluster c1", ">ReadCluster c2", ">ReadCluster c3: no connection"})

	traced.all = nil
	if o, _ := decideOn(t.Context(), d, request()); !o.Allowed {
		t.Fatalf("not allowed: %+v", o)
	}
	slices.Sort(traced.all[3:5])
	expect(t, "spans", traced.all, []string{">AppendClaim", ">ReadRegistry", ">WriteInstances", "ReadClusters>ReadCluster c1", "ReadClusters>ReadCluster c2", ">ReadClusters", ">GrantClaim"})
}

// Nobody pays for traces that nobody wants.
func TestTracingCostsNothingWhenOff(t *testing.T) {
	d := newStage().decider(t)
	if allocated := testing.AllocsPerRun(1000, func() { traceOnce(t.Context(), d) }); allocated != 0 {
		t.Errorf("a step that is not traced allocates %v times", allocated)
	}
}

func traceOnce(ctx context.Context, d *Decider) {
	_, end := d.trace(ctx, "AppendClaim", "")
	end("")
}

func BenchmarkTracingOff(b *testing.B) {
	d := &Decider{}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		traceOnce(ctx, d)
	}
}
