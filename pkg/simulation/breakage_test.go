package simulation

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// broken is a rule that is broken on purpose, where the packages are joined.
type broken struct {
	rule, name string
	// within so many seeds a violation must be found; at is where one was found last.
	within, at uint64
	// tune makes the scenario likely in which the rule matters.
	tune func(*Scenario)
	by   Breakage
}

// TestBrokenRulesAreFound breaks one rule at a time. What the witness would not
// notice then, TestSimulation does not prove. The same scenario must hold with
// the rule kept.
func TestBrokenRulesAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("needs many seeds")
	}
	for _, b := range breakages() {
		t.Run(b.rule+" "+b.name, func(t *testing.T) {
			for n := range b.within {
				seed := (b.at + n) % b.within
				s := Draw(seed)
				s.Rests = false
				if b.tune != nil {
					b.tune(&s)
				}
				r := Run(t, s, Options{Break: b.by})
				if r.Err == nil {
					continue
				}
				t.Logf("seed %d: %v", seed, r.Err)
				s.ByName, s.Patient = false, false
				if kept := Run(t, s, Options{}); kept.Err != nil {
					t.Errorf("seed %d with the rule kept: %v", seed, kept.Err)
				}
				return
			}
			t.Errorf("no violation in %d seeds", b.within)
		})
	}
}

// busy is a scenario in which many ask at once and pods are scarce.
func busy(s *Scenario) {
	s.Slots = 1
	s.Plan = slices.DeleteFunc(s.Plan, func(a Action) bool { return slices.Contains([]What{Die, Flap, Tighten, Loosen}, a.What) })
	var more []Action
	for _, a := range s.Plan {
		if a.What == Drain {
			more = append(more, Action{a.At + time.Millisecond, Drain, a.Choice / 2}, Action{a.At + 2*time.Millisecond, Drain, a.Choice / 3})
		}
	}
	s.Plan = append(s.Plan, more...)
}

// often adds actions, evenly.
func often(s *Scenario, what What, every time.Duration) {
	for at := every; at < s.Length; at += every {
		s.Plan = append(s.Plan, Action{at, what, uint64(at) * 7919})
	}
}

func breakages() []broken {
	wiped := func(s *Scenario) { busy(s); often(s, Wipe, 3*time.Second) }
	two := func(s *Scenario) { busy(s); s.Instances = 2; often(s, Reset, 2*time.Second) }
	return []broken{
		{"R1 c", "claims are not listed", 60, 3, wiped, func(_ *process, was seams) seams {
			s := was
			s.ledger = noClaims{s.ledger}
			return s
		}},
		{"R2", "the claim is not written", 20, 0, busy, func(_ *process, was seams) seams {
			s := was
			s.own = writes{s.own, func(context.Context, string, []claim.Claim) error { return nil }}
			return s
		}},
		{"R2", "the claim is written to one instance", 50, 0, two, func(_ *process, was seams) seams {
			s := was
			s.registry = instances(func(ctx context.Context) ([]string, error) {
				all, err := was.registry.Instances(ctx)
				return all[:min(1, len(all))], err
			})
			return s
		}},
		{"R2", "an instance that cannot be written is passed over", 50, 24, func(s *Scenario) { two(s); often(s, Sever, time.Second) }, func(_ *process, was seams) seams {
			s := was
			s.own = writes{s.own, func(ctx context.Context, i string, claims []claim.Claim) error {
				_ = was.own.WriteClaims(ctx, i, claims)
				return nil
			}}
			return s
		}},
		{"R3", "peers are read from the cached view", 50, 2, busy, func(p *process, was seams) seams {
			s := was
			s.clusters = reads3{s.clusters, func(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
				if cluster == p.cluster.name {
					return was.clusters.Snapshot(ctx, cluster, q)
				}
				return p.readAs(cluster, was.clusters.Cached(cluster, q))
			}}
			return s
		}},
		{"R3", "a snapshot without a marker is believed", 100, 9, wiped, func(p *process, was seams) seams {
			s := was
			s.clusters = reads3{s.clusters, func(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
				snapshot := was.clusters.Snapshot(ctx, cluster, q)
				snapshot.Invalid = ""
				return p.recorded(cluster, snapshot)
			}}
			return s
		}},
		{"R4", "only the own bound counts", 100, 0, func(s *Scenario) { busy(s); s.Kind = 0; often(s, Tighten, 5*time.Second) }, func(p *process, was seams) seams {
			s := was
			s.clusters = reads3{s.clusters, func(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
				snapshot := was.clusters.Snapshot(ctx, cluster, q)
				if cluster == p.cluster.name {
					return snapshot
				}
				snapshot.Budgets = maps.Clone(snapshot.Budgets)
				for name, report := range snapshot.Budgets {
					report.Bounds = []budget.Bound{{Kind: budget.MinAvailable}}
					snapshot.Budgets[name] = report
				}
				return snapshot
			}}
			return s
		}},
		{"R6", "a grant need not be acknowledged", 50, 21, func(s *Scenario) { busy(s); s.Lose = 60 }, func(_ *process, was seams) seams {
			s := was
			s.ledger = grantsAnyway{s.ledger}
			return s
		}},
		{"R9", "an end counts as shown before it is", 100, 0, busy, func(p *process, was seams) seams {
			s := was
			s.store = acknowledgesEarly{s.store, p}
			return s
		}},
		{"R9", "an end is shown by one instance", 100, 0, two, func(_ *process, was seams) seams {
			s := was
			s.store = showsInOne{s.store}
			return s
		}},
		{"start", "informers begin with what may be old", 100, 40, func(s *Scenario) {
			s.Budgets, s.Clusters, s.Replicas, s.Pods, s.Slots, s.InformerLag = 2, 2, 2, 1, 1, 3*time.Second
			s.Lose, s.Slow = 0, 0
			often(s, Crash, time.Second)
			often(s, Drain, 150*time.Millisecond)
		}, func(_ *process, was seams) seams {
			s := was
			s.lists = func(from cache.ListerWatcher) cache.ListerWatcher { return from }
			return s
		}},
		{"R12", "the pod is deleted by its name", 100, 0, func(s *Scenario) { busy(s); s.Stateful, s.ByName, s.Patient = true, true, true }, func(_ *process, was seams) seams { return was }},
	}
}

// recorded lets the witness know what was read instead.
func (p *process) recorded(cluster string, s claim.Snapshot) claim.Snapshot {
	p.reads.replace(cluster, s)
	return s
}

// readAs lets the witness know what was read without a read.
func (p *process) readAs(cluster string, s claim.Snapshot) claim.Snapshot {
	p.reads.end(p.reads.begin(cluster), s)
	return s
}

type instances func(context.Context) ([]string, error)

func (f instances) Instances(ctx context.Context) ([]string, error) { return f(ctx) }

type writes struct {
	decide.Instances
	write func(context.Context, string, []claim.Claim) error
}

func (w writes) WriteClaims(ctx context.Context, i string, claims []claim.Claim) error {
	return w.write(ctx, i, claims)
}

type reads3 struct {
	decide.Clusters
	read func(context.Context, string, decide.Query) claim.Snapshot
}

func (r reads3) Snapshot(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
	return r.read(ctx, cluster, q)
}

type noClaims struct{ fullLedger }

func (noClaims) All(context.Context) ([]claim.Claim, error) { return nil, nil }

type grantsAnyway struct{ fullLedger }

func (l grantsAnyway) Grant(ctx context.Context, c claim.Claim) (bool, error) {
	_, _ = l.fullLedger.Grant(ctx, c)
	return true, nil
}

// acknowledgesEarly tells that records are written, and writes them later.
type acknowledgesEarly struct {
	publish.Store
	process *process
}

func (a acknowledgesEarly) Publish(ctx context.Context, i string, life wire.Incarnation, changes []mesh.Change) error {
	a.process.ended.Go(func() {
		select {
		case <-time.After(3 * time.Second):
			_ = a.Store.Publish(a.process.ctx, i, life, changes)
		case <-a.process.killed:
		}
	})
	return ctx.Err()
}

// showsInOne writes the records of pods to the first instance only, once it is in service.
type showsInOne struct{ publish.Store }

func (o showsInOne) Publish(ctx context.Context, i string, life wire.Incarnation, changes []mesh.Change) error {
	if all := o.Instances(); len(changes) < 3 && len(all) > 0 && i != all[0] {
		return nil
	}
	return o.Store.Publish(ctx, i, life, changes)
}
