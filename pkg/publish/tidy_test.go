package publish

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// R7: any replica may withdraw what nobody decided for 10 s, whether it leads or not.
func TestPendingClaimsAreWithdrawn(t *testing.T) {
	s := newSite("i1", "i2")
	for _, i := range s.stores {
		i.values[claimKey(pendingClaim("x", "p0"))] = record(pendingClaim("x", "p0"))
	}
	s.ledger.Claims = []claim.Claim{pendingClaim("x", "p0")}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		p := s.publisher(t)
		go func() {
			defer close(done)
			p.Reap(ctx)
		}()
		pass(9 * time.Second)
		expect(t, "moves before", s.taken("Withdraw", "Release", "Drop"), []string{})
		pass(3 * time.Second)
		expect(t, "moves", s.taken("Withdraw", "Release", "Drop"), []string{"Withdraw x"})
		for _, i := range []string{"i1", "i2"} {
			expect(t, i, s.shows(i), []string{"no marker"})
		}
		cancel()
		<-done
	})
}

// Its records must outlive a claim that moved on: readers count by them.
// R7, R10: the ledger lets go first (X25).
func TestRefusedMovesLeaveTheRecords(t *testing.T) {
	for move, c := range map[string]struct {
		claim claim.Claim
		after time.Duration
		ends  bool
	}{
		"Withdraw": {claim: pendingClaim("x", "p0"), after: 12 * time.Second},
		"Release":  {claim: grantedClaim("x", "p0"), after: 301 * time.Second},
		"Drop":     {claim: grantedClaim("x", "p0"), after: 3 * time.Second, ends: true},
	} {
		for name, how := range map[string]func(*site) error{
			"moved on": func(s *site) error { s.edit(func() { s.ledger.Claims = nil }); return nil },
			"fails":    func(*site) error { return errors.New("broken") },
		} {
			t.Run(move+" "+name, func(t *testing.T) {
				s := newSite()
				s.before[move] = func(context.Context) error { return how(s) }
				s.play(t, func(t *testing.T, p *Publisher) {
					// Out of step with the times of comparing, which would find the claim missing.
					pass(5 * time.Second)
					s.edit(func() {
						s.ledger.Claims = []claim.Claim{c.claim}
						s.stores["i1"].values[claimKey(c.claim)] = record(c.claim)
					})
					if c.ends {
						s.end("p0")
					}
					pass(c.after)
					if len(s.taken(move)) == 0 {
						t.Fatal("the move was not tried")
					}
					expect(t, "records", s.shows("i1")[1], "claim x="+c.claim.State.String())
				})
			})
		}
	}
}

// R10: a grant that came to nothing is released after T, if its pod lives.
func TestGrantsAreReleased(t *testing.T) {
	t.Run("after T", func(t *testing.T) {
		s := newSite()
		s.ledger.Claims = []claim.Claim{grantedClaim("x", "p0")}
		s.play(t, func(t *testing.T, p *Publisher) {
			pass(299 * time.Second)
			expect(t, "calls before", s.taken("Withdraw", "Release", "Drop", "Ended"), []string{})
			pass(3 * time.Second)
			// The quorum look comes after the time-out (X22).
			expect(t, "calls", s.taken("Withdraw", "Release", "Drop", "Ended"), []string{"Ended p0", "Release x"})
			expect(t, "i1", s.shows("i1"), []string{"b=1", "p0=Available"})
		})
	})
	t.Run("asked for again", func(t *testing.T) {
		s := newSite()
		s.ledger.Claims = []claim.Claim{grantedClaim("x", "p0")}
		s.play(t, func(t *testing.T, p *Publisher) {
			pass(200 * time.Second)
			s.edit(func() { s.ledger.Claims[0].Seq++ })
			pass(200 * time.Second)
			expect(t, "too early", s.taken("Release"), []string{})
			pass(103 * time.Second)
			expect(t, "in the end", s.taken("Release"), []string{"Release x"})
		})
	})
	for name, change := range map[string]func(*site){
		// The informer has not seen the end yet; the quorum look does.
		"pod is going":   func(s *site) { delete(s.alive, "p0") },
		"nobody can say": func(s *site) { s.before["Ended"] = fail },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite()
			s.ledger.Claims = []claim.Claim{grantedClaim("x", "p0")}
			s.play(t, func(t *testing.T, p *Publisher) {
				s.edit(func() { change(s) })
				pass(310 * time.Second)
				expect(t, "moves", s.taken("Release", "Drop"), []string{})
				expect(t, "ledger", len(s.ledger.Claims), 1)
			})
		})
	}
}

// R9: dropped only when every registered instance shows the end.
func TestTombstonesStayUntilTheEndIsShownEverywhere(t *testing.T) {
	setUp := func() *site {
		s := newSite("i1", "i2")
		s.ledger.Claims = []claim.Claim{grantedClaim("x", "p0")}
		return s
	}
	t.Run("shown", func(t *testing.T) {
		s := setUp()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.taken()
			s.end("p0")
			pass(2 * time.Second)
			// That the informer shows it terminating is proof enough.
			calls := s.taken("Ended", "Publish", "Drop", "DeleteClaim")
			if len(calls) != 5 || calls[2] != "Drop x" {
				t.Errorf("calls: %v", calls)
			}
			for _, i := range []string{"i1", "i2"} {
				expect(t, i, s.shows(i), []string{"b=1", "p0=Terminating"})
			}
		})
	})
	t.Run("the informer does not show it", func(t *testing.T) {
		s := setUp()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.taken()
			s.edit(func() { delete(s.alive, "p0"); s.seen["p0"] = Missing })
			pass(2 * time.Second)
			calls := s.taken("Ended", "Drop")
			expect(t, "calls", calls, []string{"Ended p0", "Drop x"})
		})
	})
	t.Run("several share a write", func(t *testing.T) {
		s := setUp()
		s.ledger.Claims = append(s.ledger.Claims, grantedClaim("y", "p1"), grantedClaim("z", "p2"))
		s.play(t, func(t *testing.T, p *Publisher) {
			s.end("p0")
			pass(2 * time.Second)
			expect(t, "the first one at once", s.taken("Drop"), []string{"Drop x"})
			s.end("p1")
			pass(1500 * time.Millisecond)
			s.end("p2")
			pass(time.Second)
			expect(t, "too early", s.taken("Drop"), []string{})
			pass(2 * time.Second)
			dropped := s.taken("Drop")
			slices.Sort(dropped)
			expect(t, "together", dropped, []string{"Drop y", "Drop z"})
		})
	})
	for name, how := range map[string]func(context.Context) error{"cannot be written": fail, "does not answer": hang} {
		t.Run("one "+name, func(t *testing.T) {
			s := setUp()
			s.play(t, func(t *testing.T, p *Publisher) {
				s.edit(func() { s.before["Publish i2"] = how })
				s.taken()
				s.end("p0")
				pass(20 * time.Second)
				expect(t, "too early", s.taken("Drop"), []string{})
				expect(t, "i1", s.shows("i1"), []string{"b=1", "claim x=Granted", "p0=Terminating"})
				s.edit(func() { delete(s.before, "Publish i2") })
				pass(65 * time.Second)
				expect(t, "in the end", s.taken("Drop"), []string{"Drop x"})
			})
		})
	}
	t.Run("one is registered and not ours to write", func(t *testing.T) {
		s := setUp()
		s.registered = []string{"i0"}
		s.play(t, func(t *testing.T, p *Publisher) {
			s.end("p0")
			pass(20 * time.Second)
			expect(t, "too early", s.taken("Drop"), []string{})
			s.edit(func() { s.gone["i0"] = true })
			pass(3 * time.Second)
			expect(t, "in the end", s.taken("Drop"), []string{"Drop x"})
		})
	})
	t.Run("registry cannot be read", func(t *testing.T) {
		s := setUp()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.edit(func() { s.before["Registered"] = fail })
			s.end("p0")
			pass(10 * time.Second)
			expect(t, "moves", s.taken("Drop"), []string{})
		})
	})
	t.Run("only the informer says so", func(t *testing.T) {
		s := setUp()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.edit(func() { s.seen["p0"] = Missing })
			pass(10 * time.Second)
			expect(t, "moves", s.taken("Drop"), []string{})
			expect(t, "i1", s.shows("i1"), []string{"b=1", "claim x=Granted", "p0=Available"})
		})
	})
	t.Run("pending claims are none", func(t *testing.T) {
		s := setUp()
		s.ledger.Claims[0].State = claim.Pending
		s.play(t, func(t *testing.T, p *Publisher) {
			s.end("p0")
			pass(10 * time.Second)
			expect(t, "moves", s.taken("Drop", "Withdraw", "Release"), []string{})
		})
	})
	// The instance that was out of service has forgotten nothing, but it shows an older generation.
	t.Run("an instance in a new life", func(t *testing.T) {
		s := setUp()
		s.play(t, func(t *testing.T, p *Publisher) {
			// What the informer tells is shown at once, so that the end itself changes nothing.
			going := part(1, "p0")
			going.Pods[0].Unavailable = wire.Terminating
			if err := p.Set(t.Context(), going); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			s.edit(func() {
				s.before["PutMarker i2"] = fail
				s.stores["i2"].incarnation = "of another publisher"
			})
			pass(3 * time.Second)
			s.end("p0")
			pass(10 * time.Second)
			expect(t, "too early", s.taken("Drop"), []string{})
			s.edit(func() { delete(s.before, "PutMarker i2") })
			pass(3 * time.Second)
			expect(t, "in the end", s.taken("Drop"), []string{"Drop x"})
		})
	})
}

// R11: stored first, durable second, and never "the pod's claim".
func TestStoresAreComparedWithTheLedger(t *testing.T) {
	s := newSite()
	s.ledger.Claims = []claim.Claim{grantedClaim("granted", "p1")}
	s.play(t, func(t *testing.T, p *Publisher) {
		s.edit(func() {
			i := s.stores["i1"].values
			// The withdrawal of an earlier claim on p0 was lost, and so was the mirror of a grant.
			i[claimKey(pendingClaim("orphan", "p0"))] = record(pendingClaim("orphan", "p0"))
			i[claimKey(pendingClaim("granted", "p1"))] = record(pendingClaim("granted", "p1"))
		})
		s.taken()
		pass(25 * time.Second)
		// One that is being decided, and not shown: it may not grow older than that.
		s.edit(func() {
			s.ledger.Claims = []claim.Claim{pendingClaim("stands", "p0"), grantedClaim("granted", "p1")}
		})
		pass(4 * time.Second)
		expect(t, "calls before", s.taken("StoredClaims", "All"), []string{})
		pass(2 * time.Second)
		expect(t, "calls", s.taken("StoredClaims", "All", "DeleteClaim", "WriteClaim"),
			[]string{"StoredClaims i1", "All", "DeleteClaim i1 orphan", "WriteClaim i1 stands", "WriteClaim i1 granted"})
		expect(t, "i1", s.shows("i1"), []string{"b=1", "claim granted=Granted", "claim stands=Pending", "p0=Available"})
	})
	for _, step := range []string{"StoredClaims", "All"} {
		t.Run(step+" fails", func(t *testing.T) {
			s := newSite()
			s.play(t, func(t *testing.T, p *Publisher) {
				s.edit(func() {
					s.stores["i1"].values[claimKey(pendingClaim("x", "p0"))] = record(pendingClaim("x", "p0"))
					s.before[step] = fail
				})
				pass(31 * time.Second)
				expect(t, "calls", s.taken("DeleteClaim", "WriteClaim"), []string{})
			})
		})
	}
	// A claim made between the two reads is in neither, or in the ledger only.
	t.Run("claimed in between", func(t *testing.T) {
		s := newSite()
		s.play(t, func(t *testing.T, p *Publisher) {
			s.edit(func() {
				s.before["All"] = func(context.Context) error {
					s.edit(func() {
						s.ledger.Claims = []claim.Claim{pendingClaim("x", "p0")}
						s.stores["i1"].values[claimKey(pendingClaim("x", "p0"))] = record(pendingClaim("x", "p0"))
					})
					return nil
				}
			})
			pass(31 * time.Second)
			expect(t, "i1", s.shows("i1"), []string{"b=1", "claim x=Pending", "p0=Available"})
			expect(t, "deletions", s.taken("DeleteClaim"), []string{})
		})
	})
}

// H07: one that merely cannot be reached may be read by somebody else.
func TestInstancesAreDeregisteredOnlyWhenGone(t *testing.T) {
	s := newSite("i1", "i2")
	s.registered = []string{"i0"}
	s.play(t, func(t *testing.T, p *Publisher) {
		s.edit(func() { s.before["Alive i2"], s.before["PutIncarnation i2"] = fail, fail })
		pass(10 * time.Second)
		expect(t, "registry", s.registered, []string{"i0", "i1", "i2"})
		// Configured ones are not even asked about; of the other one it is told how long it has been so.
		asked := s.taken("Retire", "InstanceGone")
		if len(asked) < 4 {
			t.Fatalf("asked: %v", asked)
		}
		expect(t, "asked", asked[:4], []string{"Retire i0", "InstanceGone i0 0s", "Retire i0", "InstanceGone i0 1s"})
		s.edit(func() {
			s.before["InstanceGone"], s.before["Retire"] = fail, fail
			s.gone["i0"], s.gone["i1"], s.retirable["i0"] = true, true, true
		})
		pass(10 * time.Second)
		expect(t, "nobody can say", s.taken("Deregister"), []string{})
		s.edit(func() { delete(s.before, "InstanceGone") })
		pass(10 * time.Second)
		expect(t, "gone", s.taken("Deregister"), []string{"Deregister i0"})
		// Before discovery has found any, all look as if they were gone.
		s.edit(func() { s.configured = nil })
		pass(10 * time.Second)
		expect(t, "none configured", s.taken("Deregister", "Retire"), []string{})
	})
}

func TestAnInstanceWhoseMarkerWasTakenOffIsDeregistered(t *testing.T) {
	s := newSite("i1", "i2")
	s.play(t, func(t *testing.T, p *Publisher) {
		s.taken()
		s.edit(func() { s.configured, s.retirable["i2"] = []string{"i1"}, true })
		pass(3 * time.Second)
		expect(t, "calls", s.taken("Retire", "InstanceGone", "Deregister"), []string{"Retire i2", "Deregister i2"})
		expect(t, "registry", s.registered, []string{"i1"})
	})
}

func TestEndsAreForgottenAfterAnHour(t *testing.T) {
	s := newSite()
	synctest.Test(t, func(t *testing.T) {
		p := s.publisher(t)
		p.listed = true
		tidy := tidier{Publisher: p}
		if err := p.Set(t.Context(), part(1, "p0")); err != nil {
			t.Error(err)
		}
		p.markEnded("p0")
		pass(59 * time.Minute)
		tidy.forget()
		if len(p.ended) != 1 {
			t.Error("forgotten while an informer may still lag")
		}
		pass(2 * time.Minute)
		tidy.forget()
		if len(p.ended) != 0 {
			t.Error("never forgotten")
		}
		// And then it takes a quorum read again.
		s.taken()
		if err := p.Set(t.Context(), part(1, "p0")); err != nil {
			t.Error(err)
		}
		if p.verified["p0"] != true || p.parts["n/b"].Pods[0].Unavailable != wire.Available {
			t.Errorf("%v", p.parts)
		}
		expect(t, "quorum reads", s.taken("Ended"), []string{"Ended p0"})
	})
}
