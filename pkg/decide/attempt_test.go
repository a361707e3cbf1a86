package decide

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Several requests for one pod are one disruption: who asks while it is being
// decided is answered by what comes of it, and claims nothing beside it (R8).
func TestRequestsForOnePodAreDecidedOnce(t *testing.T) {
	waived := func(r *Request) { r.Waived = "db-0 is not ready" }
	for name, c := range map[string]struct {
		fresh   string
		first   func(*Request)
		then    func(*Request)
		appends int
		want    func(first, then claim.Outcome) bool
	}{
		"granted": {fresh: "c1 ++", appends: 3, want: func(first, then claim.Outcome) bool {
			return first.Allowed && !first.Repeated && then.Allowed && then.Repeated
		}},
		"refused": {fresh: "c1 +-", appends: 1, want: func(first, then claim.Outcome) bool {
			return !first.Allowed && !then.Allowed && then.Sentence == first.Sentence && strings.Contains(then.Sentence, "needs 3")
		}},
		"refused, but for those it does not matter": {fresh: "c1 +-", then: waived, appends: 3, want: func(first, then claim.Outcome) bool {
			// The claim of the first is taken back after its answer, and may still be met.
			return !first.Allowed && then.Sentence != first.Sentence
		}},
		"waived": {fresh: "c1 +-", first: waived, appends: 3, want: func(first, then claim.Outcome) bool {
			return first.Allowed && then.Allowed && then.Repeated
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.fresh["c1"] = view(c.fresh)
				s.before["Instances"] = takes(time.Second)
				d := s.decider(t)
				defer d.Close()
				outcomes := make([]claim.Outcome, 3)
				var requests sync.WaitGroup
				for i := range outcomes {
					r := requestFor(0)
					if edit := c.then; i > 0 && edit != nil {
						edit(&r)
					} else if edit := c.first; i == 0 && edit != nil {
						edit(&r)
					}
					requests.Go(func() { outcomes[i] = d.Decide(t.Context(), r) })
					synctest.Wait()
				}
				if got := s.taken("Append"); len(got) != 1 {
					t.Errorf("%d claims are made while the first is being decided", len(got))
				}
				requests.Wait()
				if got := s.taken("Append"); len(got) != c.appends {
					t.Errorf("the ledger was asked %d times, want %d", len(got), c.appends)
				}
				for _, then := range outcomes[1:] {
					if !c.want(outcomes[0], then) {
						t.Errorf("first %+v, then %+v", outcomes[0], then)
					}
				}
			})
		})
	}
}

// What came to nothing for reasons of its own is no answer for others.
func TestAnAttemptThatFailsIsNobodyElsesAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		fails func(s *stage, cancel func())
		// mayMeet: the claim of the first may still stand, as it is taken back after its answer.
		mayMeet bool
	}{
		"its caller goes away": {func(_ *stage, cancel func()) { time.AfterFunc(time.Second, cancel) }, true},
		"the ledger fails": {func(s *stage, _ func()) {
			s.before["Append"] = func(context.Context) error {
				time.Sleep(time.Second)
				delete(s.before, "Append")
				return errors.New("broken")
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.before["Instances"] = takes(1100 * time.Millisecond)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c.fails(s, cancel)
				d := s.decider(t)
				defer d.Close()
				var requests sync.WaitGroup
				var first, second claim.Outcome
				requests.Go(func() { first = d.Decide(ctx, requestFor(0)) })
				synctest.Wait()
				requests.Go(func() {
					second = d.Decide(t.Context(), requestFor(0))
				})
				requests.Wait()
				met := c.mayMeet && strings.Contains(second.Sentence, "another request")
				if first.Allowed || !second.Allowed && !met {
					t.Errorf("first %+v, second %+v", first, second)
				}
				if got := len(s.taken("Append")); got != 2 {
					t.Errorf("the ledger was asked %d times, want 2", got)
				}
			})
		})
	}
}

// Nobody waits longer than for an answer of his own, nor for what has panicked.
func TestWaitingForAnotherRequestEnds(t *testing.T) {
	t.Run("with the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newStage().decider(t)
			defer d.Close()
			mine, _ := d.claim(requestFor(0), 0)
			start := time.Now()
			o := d.Decide(t.Context(), requestFor(0))
			if o.Allowed || !o.Undecidable || o.Sentence != "another request to disrupt db-0 is being decided" || time.Since(start) != 5*time.Second {
				t.Errorf("got %+v after %s", o, time.Since(start))
			}
			d.claimed("c1-0", mine, o)
		})
	})
	t.Run("after a panic", func(t *testing.T) {
		s := newStage()
		s.before["Append"] = func(context.Context) error { panic("broken") }
		d := s.decider(t)
		defer d.Close()
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			d.Decide(t.Context(), requestFor(0))
		}()
		delete(s.before, "Append")
		if o := d.Decide(t.Context(), requestFor(0)); !o.Allowed {
			t.Errorf("got %+v", o)
		}
	})
}
