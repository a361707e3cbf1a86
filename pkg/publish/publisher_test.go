package publish

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

func TestNewWantsEverything(t *testing.T) {
	whole := newSite().publisher(t).config
	for name, spoil := range map[string]func(*Config){
		"cluster":  func(c *Config) { c.Cluster = "" },
		"store":    func(c *Config) { c.Store = nil },
		"registry": func(c *Config) { c.Registry = nil },
		"ledger":   func(c *Config) { c.Ledger = nil },
		"workload": func(c *Config) { c.Workload = nil },
		"newID":    func(c *Config) { c.NewID = nil },
	} {
		config := whole
		spoil(&config)
		if _, err := New(config); err == nil {
			t.Errorf("a Publisher without %s was made", name)
		}
	}
}

func pendingClaim(id, uid string) claim.Claim {
	return claim.Claim{ID: id, UID: uid, Namespace: "n", Pod: uid, Cluster: "c1", State: claim.Pending, Ticket: 1}
}

func grantedClaim(id, uid string) claim.Claim {
	c := pendingClaim(id, uid)
	c.State = claim.Granted
	return c
}

// restoring are the calls of rule R1.
var restoring = []string{"PutIncarnation", "Add", "StoredClaims", "LivePods", "Parts", "All", "Stored", "Publish", "PutMarker"}

// R1: what the publisher calls, in which order.
func TestAnInstanceIsRestoredInTheOrderOfR1(t *testing.T) {
	s := newSite()
	s.ledger.Claims = []claim.Claim{pendingClaim("new", "p0"), pendingClaim("shown", "p1")}
	i := s.stores["i1"]
	i.values = map[string]string{
		claimKey(pendingClaim("orphan", "p9")):      record(pendingClaim("orphan", "p9")),
		claimKey(pendingClaim("shown", "p1")):       record(pendingClaim("shown", "p1")),
		"cilium/state/meshpdb/v1/c1/pods/n/b/old":   `{"uid":"old","name":"old"}`,
		"cilium/state/meshpdb/v1/c1/budgets/n/old":  `{"tombstone":true}`,
		"cilium/state/meshpdb/v1/c1/novel/anything": "of a later version",
	}
	s.play(t, func(t *testing.T, p *Publisher) {
		calls := s.taken(restoring...)
		expect(t, "calls", calls, []string{"PutIncarnation i1", "Add i1", "StoredClaims i1", "LivePods", "Parts", "All", "Stored i1", "Publish i1", "PutMarker i1"})
		expect(t, "i1", s.shows("i1"), []string{"b=1", "cilium/state/meshpdb/v1/c1/novel/anything", "claim new=Pending", "claim shown=Pending", "p0=Available"})
		expect(t, "problems", p.Problems(), map[string]error{})
		pass(5 * time.Second)
		expect(t, "later calls", s.taken(append(restoring, "Alive")...), []string{"Alive i1", "Alive i1"})
	})
}

// A controller that starts again beside many pods must not write them all anew.
func TestARestoreWritesWhatDiffers(t *testing.T) {
	s := newSite()
	i := s.stores["i1"]
	for _, want := range []int{2, 0} {
		i.writes = 0
		s.play(t, func(*testing.T, *Publisher) {})
		expect(t, "writes", i.writes, want)
	}
	for key := range i.values {
		i.values[key] = `{}`
	}
	i.writes = 0
	s.play(t, func(t *testing.T, _ *Publisher) { expect(t, "i1", s.shows("i1"), []string{"b=1", "p0=Available"}) })
	expect(t, "writes of what was damaged", i.writes, 2)
}

func TestEveryInstanceIsRestored(t *testing.T) {
	s := newSite("i1", "i2")
	s.play(t, func(t *testing.T, p *Publisher) {
		for _, i := range []string{"i1", "i2"} {
			expect(t, i, s.shows(i), []string{"b=1", "p0=Available"})
		}
		if s.stores["i1"].incarnation == s.stores["i2"].incarnation {
			t.Error("two instances live the same life")
		}
		// One more is found, one is lost.
		s.edit(func() {
			s.stores["i3"] = &store{values: map[string]string{}}
			s.configured = []string{"i2", "i3"}
		})
		pass(time.Second)
		expect(t, "i3", s.shows("i3"), []string{"b=1", "p0=Available"})
		s.taken()
		pass(10 * time.Second)
		if calls := s.taken("Alive"); slices.Contains(calls, "Alive i1") || !slices.Contains(calls, "Alive i3") {
			t.Errorf("kept alive: %v", calls)
		}
	})
	s.taken()
	if calls := s.taken(); len(calls) > 0 {
		t.Errorf("after the end: %v", calls)
	}
}

// What fails at any step is done again from the start, in a new life.
func TestARestoreThatFailsStartsAgain(t *testing.T) {
	for _, step := range restoring {
		for name, how := range map[string]func(context.Context) error{"fails": fail, "hangs": hang} {
			t.Run(step+" "+name, func(t *testing.T) {
				s := newSite()
				s.before[step] = how
				s.play(t, func(t *testing.T, p *Publisher) {
					pass(65 * time.Second)
					expect(t, "i1", s.shows("i1"), []string{"no marker"})
					if len(p.Problems()) != 1 {
						t.Errorf("problems: %v", p.Problems())
					}
					before := s.stores["i1"].incarnation
					s.edit(func() { delete(s.before, step) })
					s.taken()
					pass(65 * time.Second)
					expect(t, "i1", s.shows("i1"), []string{"b=1", "p0=Available"})
					expect(t, "problems", p.Problems(), map[string]error{})
					if s.stores["i1"].incarnation == before {
						t.Error("the life of the failed restore goes on")
					}
					var again []string
					// Stores and ledger are read for other reasons as well.
					whole := []string{"PutIncarnation", "Add", "LivePods", "Parts", "Publish", "PutMarker"}
					for _, c := range s.taken(whole...) {
						word, _, _ := strings.Cut(c, " ")
						again = append(again, word)
					}
					if len(again) < len(whole) || !slices.Equal(again[len(again)-len(whole):], whole) {
						t.Errorf("calls: %v", again)
					}
				})
			})
		}
	}
}

func TestAFencedWriteBeginsANewLife(t *testing.T) {
	for name, write := range map[string]func(*testing.T, *Publisher){
		"that shows it is alive": func(*testing.T, *Publisher) { pass(3 * time.Second) },
		"of a record": func(t *testing.T, p *Publisher) {
			if err := p.Set(t.Context(), part(2, "p0")); err != nil {
				t.Error(err)
			}
			pass(600 * time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite()
			s.play(t, func(t *testing.T, p *Publisher) {
				s.edit(func() { s.stores["i1"].incarnation = "of another publisher" })
				s.taken()
				write(t, p)
				if life := s.stores["i1"].incarnation; life != "life2" {
					t.Errorf("goes on in %q", life)
				}
				if rows := s.shows("i1"); len(rows) != 2 || rows[1] != "p0=Available" {
					t.Errorf("i1: %v", rows)
				}
				calls := s.taken("PutIncarnation", "PutMarker")
				expect(t, "calls", calls, []string{"PutIncarnation i1", "PutMarker i1"})
			})
		})
	}
}

func TestSetAndRemove(t *testing.T) {
	s := newSite()
	s.play(t, func(t *testing.T, p *Publisher) {
		s.edit(func() { s.alive["p1"] = true })
		next := part(2, "p0", "p1")
		next.Pods[0].Unavailable = wire.NotReady
		if err := p.Set(t.Context(), next); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "set", s.shows("i1"), []string{"b=2", "p0=NotReady", "p1=Available"})
		s.taken()
		// What is shown already costs nothing.
		if err := p.Set(t.Context(), next); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "calls", s.taken("Publish", "Ended"), []string{})
		if err := p.Set(t.Context(), part(2, "p1")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "a pod less", s.shows("i1"), []string{"b=2", "p1=Available"})
		p.Remove("n", "b")
		p.Remove("n", "never was")
		synctest.Wait()
		expect(t, "removed", s.shows("i1"), []string{})
	})
}

func TestAnOlderGenerationNeverReplacesANewerOne(t *testing.T) {
	s := newSite()
	s.parts[0].Generation = 5
	s.play(t, func(t *testing.T, p *Publisher) {
		// From an informer that is behind the quorum list.
		if err := p.Set(t.Context(), part(4, "p0")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "older", s.shows("i1"), []string{"b=1", "p0=Available"})
		if err := p.Set(t.Context(), part(6, "p0")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "newer", s.shows("i1"), []string{"b=6", "p0=Available"})
		anew := part(2, "p0")
		anew.Budget.UID = "made anew"
		if err := p.Set(t.Context(), anew); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		expect(t, "another budget of the name", s.shows("i1"), []string{"b=2", "p0=Available"})
	})
}

// A list takes time; what is set or removed meanwhile is newer than it.
func TestAListDoesNotUndoWhatCameMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*testing.T, *Publisher)
		want      []string
	}{
		"removed before it was shown": {func(_ *testing.T, p *Publisher) { p.Remove("n", "new") }, []string{"b=1", "p0=Available"}},
		"removed":                     {func(_ *testing.T, p *Publisher) { p.Remove("n", "b") }, []string{"new=7"}},
		"ended": {func(t *testing.T, p *Publisher) {
			going := part(1, "p0")
			going.Pods[0].Unavailable = wire.Terminating
			if err := p.Set(t.Context(), going); err != nil {
				t.Error(err)
			}
		}, []string{"b=1", "new=7", "p0=Terminating"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite()
			synctest.Test(t, func(t *testing.T) {
				p := s.publisher(t)
				s.before["All"] = fail
				stop := s.start(t, p)
				defer stop()
				// The list has been made, and comes back late.
				s.edit(func() {
					made := part(7)
					made.Name, made.Budget.UID = "new", "new"
					s.parts = append(s.parts, made)
					delete(s.before, "All")
					s.before["Parts"] = func(context.Context) error {
						c.meanwhile(t, p)
						s.edit(func() { delete(s.before, "Parts") })
						return nil
					}
				})
				pass(time.Second)
				expect(t, "i1", s.shows("i1"), c.want)
			})
		})
	}
}

// A2: an informer that starts from an old list would raise the dead.
func TestNoPodIsAvailableBeforeItWasSeenAlive(t *testing.T) {
	t.Run("in the list", func(t *testing.T) {
		s := newSite()
		s.parts = []Part{part(1, "p0", "dead")}
		s.play(t, func(t *testing.T, p *Publisher) {
			expect(t, "i1", s.shows("i1"), []string{"b=1", "dead=NotReady", "p0=Available"})
		})
	})
	t.Run("set", func(t *testing.T) {
		s := newSite()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.edit(func() { s.before["Ended"] = fail })
			if err := p.Set(t.Context(), part(1, "p0", "p1")); err == nil {
				t.Error("nobody will try again")
			}
			synctest.Wait()
			expect(t, "nobody knows", s.shows("i1"), []string{"b=1", "p0=Available", "p1=NotReady"})
			expect(t, "quorum reads", s.taken("Ended"), []string{"Ended p1"})
			s.edit(func() { delete(s.before, "Ended"); s.alive["p1"] = true })
			for range 2 {
				if err := p.Set(t.Context(), part(1, "p0", "p1", "dead")); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
			expect(t, "known", s.shows("i1"), []string{"b=1", "dead=Terminating", "p0=Available", "p1=Available"})
			// Once each: what is known stays known.
			expect(t, "quorum reads", s.taken("Ended"), []string{"Ended p1", "Ended dead"})
		})
	})
	t.Run("in an earlier list only", func(t *testing.T) {
		s := newSite()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.edit(func() { s.alive = map[string]bool{}; s.stores["i1"].incarnation = "of another publisher" })
			pass(3 * time.Second)
			expect(t, "i1", s.shows("i1"), []string{"b=1", "p0=NotReady"})
		})
	})
	t.Run("in the next term", func(t *testing.T) {
		s := newSite()
		synctest.Test(t, func(t *testing.T) {
			p := s.publisher(t)
			s.start(t, p)()
			expect(t, "before", s.shows("i1"), []string{"b=1", "p0=Available"})
			// Meanwhile another publisher has seen the budget go.
			s.edit(func() { s.parts = nil })
			s.start(t, p)()
			expect(t, "after", s.shows("i1"), []string{})
		})
	})
}

// end lets the pod of a claim end, for everybody.
func (s *site) end(uid string) {
	s.edit(func() { delete(s.alive, uid); s.seen[uid] = Ended })
}

// R9: whatever an informer that is behind says later.
func TestAnEndedPodIsNeverAvailableAgain(t *testing.T) {
	s := newSite()
	s.ledger.Claims = []claim.Claim{grantedClaim("x", "p0")}
	s.play(t, func(t *testing.T, p *Publisher) {
		s.end("p0")
		pass(2 * time.Second)
		expect(t, "the end", s.shows("i1"), []string{"b=1", "p0=Terminating"})
		expect(t, "ledger", s.ledger.Claims, []claim.Claim{})
		for range 3 {
			if err := p.Set(t.Context(), part(1, "p0")); err != nil {
				t.Error(err)
			}
			// A new life lists again; the informer is as far behind as before.
			s.edit(func() { s.stores["i1"].incarnation = "of another publisher" })
			pass(3 * time.Second)
			expect(t, "later", s.shows("i1"), []string{"b=1", "p0=Terminating"})
		}
		// Not even if a list of live pods, made before the end, comes in late.
		s.edit(func() { s.alive["p0"] = true; s.stores["i1"].incarnation = "of another publisher" })
		pass(3 * time.Second)
		expect(t, "late list", s.shows("i1"), []string{"b=1", "p0=Terminating"})
	})
}
