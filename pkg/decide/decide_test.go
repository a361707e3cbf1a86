package decide

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

func TestNewWantsEverythingButTheDefaults(t *testing.T) {
	whole := newStage().decider(t).config
	if whole.Timeout != 5*time.Second || whole.ReadTimeout != 2*time.Second || whole.Patience != time.Second {
		t.Errorf("defaults: %v %v %v", whole.Timeout, whole.ReadTimeout, whole.Patience)
	}
	for name, spoil := range map[string]func(*Config){
		"cluster":  func(c *Config) { c.Cluster = "" },
		"ledger":   func(c *Config) { c.Ledger = nil },
		"registry": func(c *Config) { c.Registry = nil },
		"own":      func(c *Config) { c.Own = nil },
		"clusters": func(c *Config) { c.Clusters = nil },
		"scopes":   func(c *Config) { c.Scopes = nil },
		"newID":    func(c *Config) { c.NewID = nil },
	} {
		config := whole
		spoil(&config)
		if _, err := New(config); err == nil {
			t.Errorf("a Decider without %s was made", name)
		}
	}
}

// R2, R3, R6: durable, shown, read, granted, in this order.
func TestAllowingTakesTheStepsInOrderWithOneReadPerCluster(t *testing.T) {
	s := newStage()
	var steps []string
	d := s.decider(t, func(c *Config) {
		c.Observe = func(_ context.Context, step string, _ time.Duration) { steps = append(steps, step) }
	})
	o, _ := decideOn(t.Context(), d, request())
	if !o.Allowed || o.Undecidable {
		t.Fatalf("not allowed: %+v", o)
	}
	expect(t, "steps", steps, []string{"AppendClaim", "ReadRegistry", "WriteInstances", "ReadClusters", "GrantClaim"})
	// What runs at the same time has no order of its own; what follows does.
	calls := s.taken()
	for _, group := range [][]string{
		{"Cached c1", "Cached c2"},
		// For the place of a pod that was refused before.
		{"Cached c1"},
		{"Append"},
		{"Instances"},
		{"WriteClaim i1 Pending", "WriteClaim i2 Pending", "Written i1 Pending", "Written i2 Pending"},
		{"Scope n/b", "Snapshot c1", "Snapshot c2"},
		{"Grant"},
		{"WriteClaim i1 Granted", "WriteClaim i2 Granted", "Written i1 Granted", "Written i2 Granted"},
	} {
		if len(calls) < len(group) {
			t.Fatalf("missing %v", group)
		}
		expect(t, "calls", slices.Sorted(slices.Values(calls[:len(group)])), group)
		calls = calls[len(group):]
	}
	expect(t, "further calls", calls, []string{})
	expect(t, "ledger", s.stands(), []string{"me1 Granted"})
	want := claim.Claim{ID: "me1", UID: "c1-0", Namespace: "n", Pod: "db-0", Budgets: []string{"n/b"}, Views: []string{claim.ViewID([]string{"c1", "c2"})}, Cluster: "c1", State: claim.Granted, Ticket: 1, Reason: "Eviction"}
	expect(t, "record", s.stores["i2"]["me1"], want)
	expect(t, "sentence", o.Sentence, "evicting db-0 leaves 3 of 4 pods available, budget n/b needs 3 (maxUnavailable 1; c1 2/2; c2 2/2)")
}

// A peer's publisher that hands over is not read for a moment: only what lasts
// is refused without a look.
func TestRefusingFromTheCacheWaitsOutAHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.cached["c2"] = unread("c2", "no connection")
		d := s.decider(t)
		if _, refused := d.Refuse(request()); refused {
			t.Error("refused at the first sight of a cluster that is not read")
		}
		<-time.After(time.Second)
		before := len(s.taken())
		o, refused := d.Refuse(request())
		if !refused || !o.Undecidable || !strings.Contains(o.Sentence, "c2 (no connection)") {
			t.Errorf("after a second: %t %+v", refused, o)
		}
		expect(t, "calls", s.taken()[before:], []string{"Cached c1", "Cached c2"})
		s.cached["c2"] = view("c2 +-")
		if _, refused := d.Refuse(request()); !refused {
			t.Error("not refused although the budget is spent")
		}
		s.cached["c2"] = unread("c2", "no connection")
		if _, refused := d.Refuse(request()); refused {
			t.Error("a new spell was taken for the old one")
		}
	})
}

func TestRefusingFromTheCacheCallsNobody(t *testing.T) {
	for name, change := range map[string]func(*stage){
		"one is out already":     func(s *stage) { s.cached["c2"] = view("c2 +-") },
		"another one is granted": func(s *stage) { s.cached["c2"] = with(view("c2 ++"), granted("c2-0")) },
		"another one is pending": func(s *stage) { s.cached["c2"] = with(view("c2 ++"), pending("c2-0", 9)) },
	} {
		for _, dry := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				s := newStage()
				change(s)
				r := request()
				r.DryRun = dry
				d := s.decider(t)
				o, _ := decideOn(t.Context(), d, r)
				if o.Allowed || o.Decision.Verdict != budget.Deny || o.Budget != "n/b" || o.Sentence == "" {
					t.Errorf("got %+v", o)
				}
				expect(t, "calls", s.taken(), []string{"Cached c1", "Cached c2"})
				early, refused := d.Refuse(r)
				if !refused || early.Sentence != o.Sentence {
					t.Errorf("Refuse says %t %q, Decide %q", refused, early.Sentence, o.Sentence)
				}
			})
		}
	}
}

// R5: a cache may refuse and must not grant.
func TestTheCachedViewNeverAllows(t *testing.T) {
	s := newStage()
	if o, refused := s.decider(t).Refuse(request()); refused || o.Allowed {
		t.Errorf("Refuse on a view that has room: %t %+v", refused, o)
	}
	for name, fresh := range map[string]claim.Snapshot{
		"has one out":      view("c2 -+"),
		"has one granted":  with(view("c2 ++"), granted("c2-1")),
		"has one going":    with(view("c2 ++"), pending("c2-1", 0)),
		"has no marker":    unread("c2", "no marker"),
		"shows other view": other(view("c2 ++")),
		"holds no budget":  {Cluster: "c2"},
	} {
		for _, dry := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStage()
					s.fresh["c2"] = fresh
					r := request()
					r.DryRun = dry
					o, _ := decideOn(t.Context(), s.decider(t), r)
					if o.Allowed || o.Sentence == "" {
						t.Errorf("got %+v", o)
					}
					expect(t, "ledger", s.stands(), []string{})
					expect(t, "grants", s.taken("Grant"), []string{})
				})
			})
		}
	}
}

// R8: the cached view shows the pod's own claim as one that takes the last
// place; the ledger knows better.
func TestAClaimedPodIsAskedAboutAgain(t *testing.T) {
	t.Run("granted", func(t *testing.T) {
		s := newStage()
		s.cached["c1"] = with(view("c1 ++"), granted("c1-0"))
		s.cached["c2"] = view("c2 +-")
		s.ledger.Claims = []claim.Claim{{ID: "old", UID: "c1-0", Pod: "db-0", Cluster: "c1", State: claim.Granted, Seq: 3}}
		o, _ := decideOn(t.Context(), s.decider(t), request())
		if !o.Allowed || !o.Repeated {
			t.Errorf("got %+v", o)
		}
		expect(t, "calls", s.taken(), []string{"Cached c1", "Cached c2", "Cached c1", "Append"})
		if seq := s.ledger.Claims[0].Seq; seq != 4 {
			t.Errorf("seq is %d: the release time-out was not restarted", seq)
		}
	})
	t.Run("pending", func(t *testing.T) {
		s := newStage()
		s.ledger.Claims = []claim.Claim{{ID: "old", UID: "c1-0", Pod: "db-0", Cluster: "c1", State: claim.Pending, Ticket: 1}}
		o, _ := decideOn(t.Context(), s.decider(t), request())
		if o.Allowed || !o.Undecidable {
			t.Errorf("got %+v", o)
		}
		expect(t, "sentence", o.Sentence, "another request to disrupt db-0 is being decided")
		// It is somebody else's: not ours to withdraw.
		expect(t, "ledger", s.stands(), []string{"old Pending"})
		expect(t, "withdrawals", s.taken("Withdraw"), []string{})
	})
}

func TestADryRunClaimsNothing(t *testing.T) {
	s := newStage()
	r := request()
	r.DryRun = true
	o, _ := decideOn(t.Context(), s.decider(t), r)
	if !o.Allowed {
		t.Errorf("got %+v", o)
	}
	expect(t, "calls", slices.Sorted(slices.Values(s.taken())), []string{"Cached c1", "Cached c2", "Snapshot c1", "Snapshot c2"})
	expect(t, "ledger", s.stands(), []string{})
	expect(t, "store", s.shows("i1"), []string{})
}

func TestAClusterThatDoesNotAnswer(t *testing.T) {
	for _, cluster := range []string{"c1", "c2"} {
		for _, dry := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.before["Snapshot "+cluster] = hang
				r := request()
				r.DryRun = dry
				o, took := decideOn(t.Context(), s.decider(t), r)
				if o.Allowed || !o.Undecidable || o.Decision.Reason != budget.ClusterUnread || !strings.Contains(o.Sentence, cluster+" (did not answer") {
					t.Errorf("got %+v", o)
				}
				// One round of reads, no more: patience is over by then.
				if took != 2*time.Second {
					t.Errorf("answered after %v", took)
				}
				expect(t, "ledger", s.stands(), []string{})
			})
		}
	}
}

func TestAnAbsoluteMinimumDoesWithoutTheClusterThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		one := budget.Bound{Kind: budget.MinAvailable, Value: 1}
		s.cached["c1"], s.fresh["c1"] = bound(view("c1 ++"), one), bound(view("c1 ++"), one)
		s.cached["c2"] = bound(view("c2 ++"), one)
		s.before["Snapshot c2"] = hang
		o, took := decideOn(t.Context(), s.decider(t), request())
		if !o.Allowed || took != 2*time.Second {
			t.Errorf("after %v: %+v", took, o)
		}
	})
}

func TestAHiccupIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.fresh["c2"] = unread("c2", "no marker")
		time.AfterFunc(250*time.Millisecond, func() { s.change(func() { s.fresh["c2"] = view("c2 ++") }) })
		o, took := decideOn(t.Context(), s.decider(t), request())
		if !o.Allowed || took != 250*time.Millisecond {
			t.Errorf("after %v: %+v", took, o)
		}
	})
}

// R5: wait for what is lower, and count no newcomer meanwhile.
func TestWaitingForAClaimThatGoesAfterOurs(t *testing.T) {
	for name, c := range map[string]struct {
		// silent changes are those of Cilium's endpoints, which nobody watches.
		silent  bool
		then    claim.Snapshot
		allowed bool
		after   time.Duration
	}{
		"until it goes":           {then: view("c2 ++"), allowed: true, after: 550 * time.Millisecond},
		"until it goes, silently": {silent: true, then: view("c2 ++"), allowed: true, after: 600 * time.Millisecond},
		"until it is granted":     {then: with(view("c2 ++"), claim.Claim{ID: "other", UID: "c2-0", Cluster: "c2", State: claim.Granted, Ticket: 9}), after: 550 * time.Millisecond},
		// The last fifth of the 5 s belongs to the withdrawal.
		"until it is too late": {then: with(view("c2 ++"), pending("c2-0", 9)), after: 4050 * time.Millisecond},
		// A later claim counts ours; waiting for it as well could last for ever (F01).
		"until it goes, not for a later one": {then: with(view("c2 ++"), claim.Claim{ID: "later", UID: "c2-1", Cluster: "c2", State: claim.Pending, Ticket: 10, Budgets: []string{"n/b"}, Views: []string{claim.ViewID([]string{"c1", "c2"})}}), allowed: true, after: 550 * time.Millisecond},
		// Unless it is made by others than read us (V15).
		"not without a later one of another view": {then: with(view("c2 ++"), claim.Claim{ID: "later", UID: "c2-1", Cluster: "c2", State: claim.Pending, Ticket: 10, Budgets: []string{"n/b"}, Views: []string{claim.ViewID([]string{"c2"})}}), after: 4050 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.fresh["c2"] = with(view("c2 ++"), pending("c2-0", 9))
				time.AfterFunc(550*time.Millisecond, func() {
					if c.silent {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.fresh["c2"] = c.then
						return
					}
					s.change(func() { s.fresh["c2"] = c.then })
				})
				o, took := decideOn(t.Context(), s.decider(t), request())
				if o.Allowed != c.allowed || took != c.after {
					t.Errorf("allowed %t after %v: %s", o.Allowed, took, o.Sentence)
				}
				if want := map[bool]int{true: 1, false: 0}[c.allowed]; len(s.stands()) != want {
					t.Errorf("ledger: %v", s.stands())
				}
				expect(t, "claims made", s.taken("Append"), []string{"Append"})
			})
		})
	}
}

func TestARefusedClaimIsWithdrawn(t *testing.T) {
	for name, c := range map[string]struct {
		withdrawn func(bool) bool
		fails     bool
		deleted   []string
		shown     []string
	}{
		"acknowledged":      {deleted: []string{"DeleteClaim i1", "DeleteClaim i2"}},
		"granted meanwhile": {withdrawn: func(bool) bool { return false }, shown: []string{"me1 Pending"}},
		"nobody knows":      {fails: true, shown: []string{"me1 Pending"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage()
			s.fresh["c2"] = view("c2 -+")
			if c.withdrawn != nil {
				s.withdrawn = c.withdrawn
			}
			if c.fails {
				s.before["Withdraw"] = fail
			}
			o, _ := decideOn(t.Context(), s.decider(t), request())
			if o.Allowed || o.Decision.Reason != budget.Insufficient {
				t.Errorf("got %+v", o)
			}
			expect(t, "withdrawals", s.taken("Withdraw"), []string{"Withdraw"})
			expect(t, "deletions", slices.Sorted(slices.Values(s.taken("DeleteClaim"))), c.deleted)
			expect(t, "records", s.shows("i1"), c.shown)
		})
	}
}

// R4, V04: an instance may show an older view than somebody else was granted by.
func TestTheOwnViewIsTheDurableOne(t *testing.T) {
	t.Run("own instance is behind", func(t *testing.T) {
		s := newStage()
		s.fresh["c1"] = other(view("c1 ++"))
		if o, _ := decideOn(t.Context(), s.decider(t), request()); !o.Allowed {
			t.Errorf("refused by a view that is not the durable one: %s", o.Sentence)
		}
	})
	for why, spoil := range map[string]func(*stage){
		"c1 (the clusters that take part have just changed)":         func(s *stage) { s.scope["b"] = []string{"c1", "c2", "c3"} },
		"cluster c1 (the clusters that take part have just changed)": func(s *stage) { s.scope["b"] = nil },
		"c1 (budget could not be read: broken)":                      func(s *stage) { s.before["Scope"] = fail },
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				spoil(s)
				o, _ := decideOn(t.Context(), s.decider(t), request())
				if o.Allowed || !o.Undecidable || !strings.Contains(o.Sentence, why) {
					t.Errorf("got %+v", o)
				}
				expect(t, "ledger", s.stands(), []string{})
				// Read after the claim was written, every time.
				calls := s.taken()
				if slices.Index(calls, "Scope n/b") < slices.Index(calls, "Written i2 Pending") {
					t.Errorf("the view was read before the claim was written: %v", calls)
				}
			})
		})
	}
}

// Whatever breaks, at whichever step: an answer in time, which is no, and
// nothing left behind.
func TestEveryStepMayFail(t *testing.T) {
	for _, step := range []string{"Append", "Instances", "WriteClaim", "WriteClaim i2", "Snapshot", "Scope", "Grant"} {
		for name, c := range map[string]struct {
			how    func(context.Context) error
			effect bool
		}{"fails": {how: fail}, "hangs": {how: hang}, "takes effect and fails": {fail, true}, "takes effect and hangs": {hang, true}} {
			if c.effect && step != "Append" {
				continue
			}
			t.Run(step+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStage()
					hooks := s.before
					if c.effect {
						hooks = s.after
					}
					// Later calls, those of the clean-up, succeed.
					armed := true
					hook := func(ctx context.Context) error {
						s.mu.Lock()
						now := armed
						s.mu.Unlock()
						if !now {
							return nil
						}
						return c.how(ctx)
					}
					hooks[step] = hook
					if step == "WriteClaim i2" {
						delete(hooks, step)
						hooks["WriteClaim i2 Pending"] = hook
					}
					d := s.decider(t)
					start := time.Now()
					o := d.Decide(t.Context(), request())
					took := time.Since(start)
					s.mu.Lock()
					armed = false
					s.mu.Unlock()
					d.Close()
					if o.Allowed || !o.Undecidable || o.Sentence == "" {
						t.Errorf("got %+v", o)
					}
					if took > 5*time.Second {
						t.Errorf("answered after %v", took)
					}
					expect(t, "ledger", s.stands(), []string{})
					expect(t, "store", s.shows("i1"), []string{})
				})
			})
		}
	}
}

// R6: what nobody knows is a no, and a grant that stands keeps its records.
func TestAGrantThatNobodyKnowsOf(t *testing.T) {
	for name, how := range map[string]func(context.Context) error{"fails": fail, "hangs": hang} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.after["Grant"] = how
				o, took := decideOn(t.Context(), s.decider(t), request())
				if o.Allowed || !o.Undecidable || took > 5*time.Second {
					t.Errorf("after %v: %+v", took, o)
				}
				expect(t, "ledger", s.stands(), []string{"me1 Granted"})
				expect(t, "store", s.shows("i1"), []string{"me1 Pending"})
				expect(t, "deletions", s.taken("DeleteClaim"), []string{})
			})
		})
	}
	t.Run("finds no claim", func(t *testing.T) {
		s := newStage()
		s.before["Grant"] = func(context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ledger.Withdraw("me1")
			return nil
		}
		if o, _ := decideOn(t.Context(), s.decider(t), request()); o.Allowed || !o.Undecidable {
			t.Errorf("allowed by a claim that was withdrawn (X16): %+v", o)
		}
	})
}

func TestTheCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.fresh["c2"] = with(view("c2 ++"), pending("c2-0", 9))
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		o, took := decideOn(ctx, s.decider(t), request())
		if o.Allowed || took > 250*time.Millisecond {
			t.Errorf("after %v: %+v", took, o)
		}
		expect(t, "ledger", s.stands(), []string{})
		expect(t, "store", s.shows("i2"), []string{})
	})
}

func TestAnInstanceThatCannotBeWritten(t *testing.T) {
	t.Run("has left", func(t *testing.T) {
		s := newStage()
		s.before["WriteClaim i2 Pending"] = func(ctx context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.registered = []string{"i1", "i3"}
			return fail(ctx)
		}
		if o, _ := decideOn(t.Context(), s.decider(t), request()); !o.Allowed {
			t.Errorf("refused for an instance that nobody reads: %s", o.Sentence)
		}
		expect(t, "the newcomer", s.shows("i3"), []string{"me1 Granted"})
		calls := s.taken()
		if slices.Index(calls, "Snapshot c2") < slices.Index(calls, "Written i3 Pending") {
			t.Errorf("clusters were read before every instance had the claim: %v", calls)
		}
	})
	t.Run("stays", func(t *testing.T) {
		s := newStage()
		s.before["WriteClaim i2 Pending"] = fail
		o, _ := decideOn(t.Context(), s.decider(t), request())
		if o.Allowed || !strings.Contains(o.Sentence, "i2") {
			t.Errorf("got %+v", o)
		}
		expect(t, "reads", s.taken("Snapshot"), []string{})
	})
	t.Run("none there", func(t *testing.T) {
		s := newStage()
		s.registered = nil
		if o, _ := decideOn(t.Context(), s.decider(t), request()); o.Allowed || !o.Undecidable {
			t.Errorf("got %+v", o)
		}
		expect(t, "reads", s.taken("Snapshot"), []string{})
	})
}

func TestAllBudgetsMustAllow(t *testing.T) {
	both := []string{"n/b", "n/b2"}
	tight := func(s claim.Snapshot) claim.Snapshot {
		r := s.Budgets["n/b2"]
		r.Bounds = []budget.Bound{{Kind: budget.MinAvailable, Value: 4}}
		s.Budgets["n/b2"] = r
		return s
	}
	stageOf := func() *stage {
		s := newStage()
		for _, c := range []string{"c1", "c2"} {
			s.cached[c], s.fresh[c] = view(c+" ++", both...), view(c+" ++", both...)
		}
		return s
	}
	t.Run("both do", func(t *testing.T) {
		s := stageOf()
		o, _ := decideOn(t.Context(), s.decider(t), request(both...))
		if !o.Allowed {
			t.Errorf("refused: %s", o.Sentence)
		}
		expect(t, "claims", s.stands(), []string{"me1 Granted"})
		expect(t, "budgets", s.ledger.Claims[0].Budgets, both)
		expect(t, "reads", len(s.taken("Snapshot")), 2)
	})
	for _, order := range [][]string{{"n/b", "n/b2"}, {"n/b2", "n/b"}} {
		t.Run("one does not", func(t *testing.T) {
			s := stageOf()
			s.fresh["c2"] = tight(s.fresh["c2"])
			o, _ := decideOn(t.Context(), s.decider(t), request(order...))
			if o.Allowed || o.Budget != "n/b2" {
				t.Errorf("got %+v", o)
			}
			expect(t, "ledger", s.stands(), []string{})
		})
		t.Run("one does not, as is known", func(t *testing.T) {
			s := stageOf()
			s.cached["c2"] = tight(s.cached["c2"])
			o, refused := s.decider(t).Refuse(request(order...))
			if !refused || o.Budget != "n/b2" {
				t.Errorf("got %t %+v", refused, o)
			}
		})
	}
	t.Run("one has another scope", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := stageOf()
			s.scope["b2"] = []string{"c1"}
			if o, _ := decideOn(t.Context(), s.decider(t), request(both...)); o.Allowed || o.Budget != "n/b2" {
				t.Errorf("got %+v", o)
			}
		})
	})
}

func TestTicketsFollowThoseSeen(t *testing.T) {
	s := newStage()
	s.fresh["c2"] = with(view("c2 ++"), pending("elsewhere", 41))
	d := s.decider(t)
	r := request()
	decideOn(t.Context(), d, r)
	r.UID, r.Pod = "c1-1", "db-1"
	decideOn(t.Context(), d, r)
	expect(t, "tickets seen before each claim", s.seen, []uint64{0, 41})
}

// A peer that has drawn the last ticket has ended the order of arrival in the namespaces in which it takes part.
func TestTicketsOfOneNamespaceAreNotSeenInAnother(t *testing.T) {
	d := newStage().decider(t)
	d.sawTicket("theirs", claim.LastTicket)
	d.mu.Lock()
	defer d.mu.Unlock()
	for namespace, want := range map[string]uint64{"n": 1, "theirs": claim.LastTicket} {
		if got := d.nextTicket(Request{Namespace: namespace}, nil); got != want {
			t.Errorf("%s: the next ticket is %d, want %d", namespace, got, want)
		}
	}
}

func TestOneOfManyAtOnceIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.fresh["c1"], s.cached["c1"] = view("c1 ++++++"), view("c1 ++++++")
		d := s.decider(t)
		var all sync.WaitGroup
		var mu sync.Mutex
		allowed := 0
		for _, uid := range []string{"c1-0", "c1-1", "c1-2", "c1-3", "c1-4", "c1-5"} {
			all.Go(func() {
				r := request()
				r.UID, r.Pod = uid, uid
				if d.Decide(t.Context(), r).Allowed {
					mu.Lock()
					defer mu.Unlock()
					allowed++
				}
			})
		}
		all.Wait()
		d.Close()
		if allowed != 1 {
			t.Errorf("%d of 6 requests at once were allowed, not 1", allowed)
		}
	})
}

func granted(uid string) claim.Claim {
	return claim.Claim{ID: "other", UID: uid, Cluster: "c2", State: claim.Granted, Ticket: 1}
}

// pending with a small ticket goes before ours, with a large one after it.
func pending(uid string, ticket uint64) claim.Claim {
	return claim.Claim{ID: "other", UID: uid, Cluster: "c2", State: claim.Pending, Ticket: ticket}
}

func other(s claim.Snapshot) claim.Snapshot {
	r := s.Budgets["n/b"]
	r.View = []string{"c1", "c2", "c3"}
	s.Budgets["n/b"] = r
	return s
}

// What is waived is claimed for others to see, and reads nobody.
func TestAWaivedRequestIsOnlyClaimed(t *testing.T) {
	s := newStage()
	r := request()
	r.Waived = "db-0 is not ready"
	d := s.decider(t)
	o := d.Decide(t.Context(), r)
	if !o.Allowed || !o.Waived || o.Sentence != "db-0 is not ready" {
		t.Errorf("got %+v", o)
	}
	expect(t, "ledger", s.stands(), []string{"me1 Granted"})
	expect(t, "reads", s.taken("Snapshot", "Scope"), []string{})
	d.Close()
	expect(t, "i1", s.shows("i1"), []string{"me1 Granted"})
	for name, still := range map[string]func(context.Context) (bool, error){
		"it became ready": func(context.Context) (bool, error) { return false, nil },
		"cannot be read":  func(context.Context) (bool, error) { return true, errors.New("timed out") },
	} {
		s := newStage()
		r.StillFree = still
		if o := s.decider(t).Decide(t.Context(), r); o.Waived || !strings.Contains(o.Sentence, "budget n/b needs 3") {
			t.Errorf("%s: %+v", name, o)
		}
	}
	r.DryRun = true
	if o := d.Decide(t.Context(), r); !o.Allowed || !o.Waived {
		t.Errorf("dry-run: %+v", o)
	}
	expect(t, "ledger after a dry-run", s.stands(), []string{"me1 Granted"})
}
