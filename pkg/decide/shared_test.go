package decide

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// takes is a call that takes so long.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
}

// roomy has so many pods in c1 that all of them may go.
func roomy(pods int) *stage {
	s := newStage()
	all := budget.Bound{Kind: budget.MaxUnavailable, Value: pods}
	for _, views := range []map[string]string{{"c1": "c1 " + strings.Repeat("+", pods), "c2": "c2 ++"}} {
		for cluster, text := range views {
			s.fresh[cluster], s.cached[cluster] = bound(view(text), all), bound(view(text), all)
		}
	}
	return s
}

func requestFor(i int) Request {
	r := request()
	r.UID, r.Pod = fmt.Sprintf("c1-%d", i), fmt.Sprintf("db-%d", i)
	return r
}

func sum(sizes []int) int {
	n := 0
	for _, size := range sizes {
		n += size
	}
	return n
}

// Requests that arrive together share the registry's read, the writes and the
// reads: the first goes ahead, the others follow together a moment later.
func TestRequestsThatArriveTogetherShareTheirCalls(t *testing.T) {
	const requests, trip = 20, 80 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		s := roomy(requests)
		s.before["Snapshot"], s.before["WriteClaim"], s.before["Instances"] = takes(trip), takes(time.Microsecond), takes(3*time.Millisecond)
		s.before["Scope"] = takes(3 * time.Millisecond)
		d := s.decider(t)
		start := time.Now()
		var all sync.WaitGroup
		for i := range requests {
			all.Go(func() {
				if o := d.Decide(t.Context(), requestFor(i)); !o.Allowed {
					t.Errorf("%d: %+v", i, o)
				}
				// None waits for the round that is under way.
				if took := time.Since(start); took > trip+20*time.Millisecond {
					t.Errorf("%d took %s", i, took)
				}
			})
		}
		all.Wait()
		d.Close()
		if rounds := s.batches["round"]; len(rounds) > 3 || sum(rounds) != requests {
			t.Errorf("%d requests took rounds of %v", requests, rounds)
		}
		for _, cluster := range []string{"c1", "c2"} {
			if n := len(s.taken("Snapshot " + cluster)); n > 3 {
				t.Errorf("%s was read %d times", cluster, n)
			}
		}
		// Each claim is written when it is pending and when it is granted.
		for _, instance := range []string{"i1", "i2"} {
			if writes := s.batches[instance]; len(writes) > 6 || sum(writes) != 2*requests {
				t.Errorf("%s was written in batches of %v", instance, writes)
			}
		}
		if n := len(s.taken("Instances")); n > 6 {
			t.Errorf("the registry was read %d times", n)
		}
		if n := len(s.taken("Scope")); n > 3 {
			t.Errorf("the scope was read %d times", n)
		}
	})
}

// R3: a round that is under way may have read before the claim was written.
func TestARoundThatIsUnderWayIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := roomy(2)
		s.before["Snapshot"] = takes(time.Second)
		d := s.decider(t)
		var all sync.WaitGroup
		all.Go(func() { d.Decide(t.Context(), requestFor(0)) })
		<-time.After(500 * time.Millisecond)
		all.Go(func() { d.Decide(t.Context(), requestFor(1)) })
		all.Wait()
		d.Close()
		calls := s.taken("Written", "Snapshot")
		first := slices.Index(calls, "Snapshot c2")
		second := lastIndex(calls, "Snapshot c2")
		written := slices.Index(calls[first:], "Written i1 Pending") + first
		if first < 0 || second <= first || written <= first || written > second {
			t.Errorf("the second claim was not written between two reads: %v", calls)
		}
	})
}

// The claim is durable, so it may be written to the instances that are known
// while the registry is read; what the registry adds is written before anything is read.
// R2 says nothing of their order (H13, H16).
func TestTheClaimIsAnnouncedWhileTheRegistryIsRead(t *testing.T) {
	const write, registry = 10 * time.Millisecond, 7 * time.Millisecond
	for name, c := range map[string]struct {
		between func(*stage)
		took    time.Duration
		want    []string
		refused bool
	}{
		"the same instances": {
			took: write, want: []string{"Written i1 Pending", "Written i2 Pending", "Snapshot c1", "Snapshot c2"},
		},
		"one more": {
			between: func(s *stage) { s.registered = append(s.registered, "i3") },
			took:    2 * write, want: []string{"Written i1 Pending", "Written i2 Pending", "Written i3 Pending", "Snapshot c1", "Snapshot c2"},
		},
		"one that has left does not answer": {
			between: func(s *stage) {
				s.registered = []string{"i1"}
				s.before["WriteClaim i2 Pending"] = hang
			},
			took: write, want: []string{"Written i1 Pending", "Snapshot c1", "Snapshot c2"},
		},
		"one that stays does not answer": {
			// Found out once, not twice: the registry is read again and still has it.
			between: func(s *stage) { s.before["WriteClaim i2 Pending"] = hang },
			took:    2*time.Second + registry, want: []string{"Written i1 Pending"}, refused: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := roomy(2)
				s.before["WriteClaim"], s.before["Instances"] = takes(write), takes(registry)
				d := s.decider(t)
				if o := d.Decide(t.Context(), requestFor(0)); !o.Allowed {
					t.Fatal(o.Sentence)
				}
				synctest.Wait()
				<-time.After(time.Second)
				s.mu.Lock()
				s.calls = nil
				if c.between != nil {
					c.between(s)
				}
				s.mu.Unlock()
				start := time.Now()
				o := d.Decide(t.Context(), requestFor(1))
				took := time.Since(start)
				got := s.taken("Written", "Snapshot")
				slices.Sort(got)
				want := slices.Sorted(slices.Values(c.want))
				expect(t, "calls", got, want)
				if o.Allowed == c.refused || took != c.took {
					t.Errorf("after %s: %+v", took, o)
				}
				if c.refused && !strings.Contains(o.Sentence, "could not be written to instance i2") {
					t.Error(o.Sentence)
				}
				d.Close()
			})
		})
	}
}

func lastIndex(calls []string, call string) int {
	for i, c := range slices.Backward(calls) {
		if c == call {
			return i
		}
	}
	return -1
}

// What this replica is about to claim goes before what comes later, although the
// view does not show it yet: others would claim in vain.
func TestAttemptsUnderWayCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.before["Append"] = takes(time.Second)
		d := s.decider(t)
		defer d.Close()
		second := requestFor(1)
		if _, refused := d.Refuse(second); refused {
			t.Fatal("refused although budget is free")
		}
		var first sync.WaitGroup
		first.Go(func() { d.Decide(t.Context(), requestFor(0)) })
		synctest.Wait()
		o, refused := d.Refuse(second)
		if !refused || !strings.Contains(o.Sentence, "c1 2/2, 1 being decided") {
			t.Errorf("got %t %+v", refused, o)
		}
		if _, refused := d.Refuse(requestFor(0)); refused {
			t.Error("an attempt goes before itself")
		}
		first.Wait()
		if _, refused := d.Refuse(second); refused {
			t.Error("refused for an attempt that has ended, before the view shows it")
		}
	})
}
