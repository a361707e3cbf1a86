package simulation

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Scenario is what a seed draws before the world starts. Fields may be changed
// between [Draw] and [Run], to shrink a run that fails.
type Scenario struct {
	Seed uint64
	// Clusters in the mesh, Replicas of the controller and Instances of the kvstore in each.
	Clusters, Replicas, Instances int
	// Pods of each cluster; Slots of them may be away in the whole mesh; Budgets cover them.
	Pods, Slots, Budgets int
	// Kind of the bound: 0 maxUnavailable, 1 minAvailable, 2 minAvailable in percent.
	Kind int
	// Exported: Cilium exports the Service. Stateful: a pod's name is used again.
	// Identified: each life of an etcd has IDs of its own; Cilium's all have the same.
	Exported, Stateful, Identified bool
	// Joins: the last cluster joins the budget while it is used.
	Joins bool
	// Lose, of 1000 calls; Slow, of 1000 delays.
	Lose, Slow int
	// Rests: all stops at the end, and no claim may be left.
	Rests bool
	// ByName: the API server deletes whatever pod has the name that it was asked for, as it does without a
	// precondition. Patient: it always takes its time.
	ByName, Patient bool
	// Length of the run.
	Length time.Duration
	// InformerLag and ExportLag are usual delays of what is told to informers and by Cilium.
	InformerLag, ExportLag time.Duration
	// Plan is what happens to the world, in order.
	Plan []Action

	apiDelay, ownDelay, peerDelay time.Duration
}

// Action is one thing that happens to the world. Its objects are chosen by
// Choice among those that stand then.
type Action struct {
	At     time.Duration
	What   What
	Choice uint64
}

// What happens.
type What string

// The things that happen.
const (
	Drain   What = "drain"   // somebody asks for a pod until it may go
	Crash   What = "crash"   // a replica is killed, and comes back
	Wipe    What = "wipe"    // a kvstore instance restarts, empty
	Cut     What = "cut"     // a replica does not reach the peers
	Hang    What = "hang"    // a replica is paused
	Lead    What = "lead"    // another replica leads, while the old one still believes that it does
	Die     What = "die"     // a pod dies by itself
	Flap    What = "flap"    // a pod is unready for a while
	Reset   What = "reset"   // connections to an instance are reset
	Compact What = "compact" // an instance forgets old revisions
	Tighten What = "tighten" // a cluster states a stricter bound
	Loosen  What = "loosen"  // a cluster states its first bound again
	Join    What = "join"    // one cluster hears that the last one takes part
	Replace What = "replace" // a kvstore instance is replaced by another one
	Sever   What = "sever"   // a replica does not reach one of its own instances, which others reach
)

// Draw draws the scenario of a seed.
func Draw(seed uint64) Scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	one := func(of int) bool { return r.IntN(of) == 0 }
	s := Scenario{
		Seed: seed, Clusters: 2 + r.IntN(3), Replicas: 1 + r.IntN(2), Instances: 1 + r.IntN(2),
		Pods: 1 + r.IntN(3), Slots: 1 + r.IntN(2), Budgets: 1 + r.IntN(4)/3, Kind: r.IntN(3),
		Exported: one(2), Stateful: one(2), Identified: one(3), Rests: one(12),
		Length: 45 * time.Second, InformerLag: time.Duration(1+r.IntN(20)) * time.Millisecond, ExportLag: time.Duration(1+r.IntN(100)) * time.Millisecond,
		apiDelay: time.Duration(1+r.IntN(6)) * time.Millisecond, ownDelay: time.Duration(1+r.IntN(2)) * time.Millisecond, peerDelay: time.Duration(1+r.IntN(30)) * time.Millisecond,
	}
	if s.Clusters == 4 {
		s.Pods = min(s.Pods, 2)
	}
	s.Slots = min(s.Slots, s.Clusters*s.Pods-1)
	s.Joins = one(6) && s.Clusters > 2
	if one(2) {
		s.Lose = 1 + r.IntN(25)
	}
	if one(2) {
		s.Slow = 1 + r.IntN(25)
	}
	if one(4) {
		s.InformerLag *= 30
	}
	s.plan(r)
	return s
}

func (s *Scenario) plan(r *rand.Rand) {
	often := func(what What, most int) {
		for range r.IntN(most + 1) {
			s.Plan = append(s.Plan, Action{At: time.Duration(r.Int64N(int64(s.Length))), What: what, Choice: r.Uint64()})
		}
	}
	maybe := func(what What, most int) {
		if r.IntN(2) == 0 {
			often(what, most)
		}
	}
	for range 36 + r.IntN(36) {
		s.Plan = append(s.Plan, Action{At: time.Duration(r.Int64N(int64(s.Length))), What: Drain, Choice: r.Uint64()})
	}
	maybe(Crash, 4)
	maybe(Wipe, 5)
	maybe(Cut, 4)
	maybe(Hang, 4)
	maybe(Lead, 3)
	maybe(Reset, 5)
	maybe(Compact, 3)
	maybe(Replace, 2)
	if r.IntN(3) == 0 {
		maybe(Die, 3)
		maybe(Flap, 6)
	}
	switch {
	case s.Joins:
		at := time.Duration(r.Int64N(int64(s.Length / 2)))
		for c := range s.Clusters - 1 {
			s.Plan = append(s.Plan, Action{At: at + time.Duration(r.Int64N(int64(5*time.Second))), What: Join, Choice: uint64(c)})
		}
	case r.IntN(4) == 0:
		often(Tighten, 3)
		often(Loosen, 3)
	}
	maybe(Sever, 4)
	slices.SortStableFunc(s.Plan, func(a, b Action) int { return int(a.At - b.At) })
}

// Without returns the scenario without some actions of its plan.
func (s Scenario) Without(indexes []int) Scenario {
	var rest []Action
	for i, a := range s.Plan {
		if !slices.Contains(indexes, i) {
			rest = append(rest, a)
		}
	}
	s.Plan = rest
	return s
}

func (s *Scenario) has(what ...What) bool {
	return slices.ContainsFunc(s.Plan, func(a Action) bool { return slices.Contains(what, a.What) })
}
