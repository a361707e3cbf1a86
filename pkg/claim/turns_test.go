package claim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const fair = "n/b"

// waiting is a waiter of cluster c1 that began so long before noon, asked last
// so long before noon, and asks so often.
func waiting(uid string, ticket uint64, since, last, every time.Duration) Waiter {
	return Waiter{Cluster: "c1", UID: uid, Pod: uid, Ticket: ticket, First: noon.Add(-since), Last: noon.Add(-last), Every: every}
}

func TestYield(t *testing.T) {
	const s = time.Second
	me := Waiter{Cluster: "c2", UID: "me", Ticket: 5}
	for _, tt := range []struct {
		name   string
		free   int
		others []Waiter
		after  time.Duration // since noon, when the first request gave way, if any does
		want   string
	}{
		{"nobody else", 1, nil, 0, ""},
		{"older and about to ask", 1, []Waiter{waiting("w", 4, 20*s, 4*s, 5*s)}, 0, "w"},
		{"younger", 1, []Waiter{waiting("w", 6, 20*s, 4*s, 5*s)}, 0, ""},
		{"same ticket, the cluster decides", 1, []Waiter{waiting("w", 5, 20*s, 4*s, 5*s)}, 0, "w"},
		{"myself", 1, []Waiter{waiting("me", 4, 20*s, 4*s, 5*s)}, 0, ""},
		{"has not waited long", 1, []Waiter{waiting("w", 4, 7*s, 4*s, 5*s)}, 0, ""},
		{"not due within the hold", 1, []Waiter{waiting("w", 4, 20*s, 3*s, 5*s)}, 0, ""},
		{"just late", 1, []Waiter{waiting("w", 4, 20*s, 5200*time.Millisecond, 5*s)}, 0, "w"},
		{"overdue", 1, []Waiter{waiting("w", 4, 20*s, 5400*time.Millisecond, 5*s)}, 0, ""},
		{"eager, heard of a moment ago", 1, []Waiter{waiting("w", 4, 20*s, 3*s, 50*time.Millisecond)}, 0, "w"},
		{"eager, not heard of any more", 1, []Waiter{waiting("w", 4, 20*s, 4100*time.Millisecond, 50*time.Millisecond)}, 0, ""},
		{"enough for both", 2, []Waiter{waiting("w", 4, 20*s, 4*s, 5*s)}, 0, ""},
		{"two older ones for two", 2, []Waiter{waiting("w", 4, 20*s, 4*s, 5*s), waiting("v", 3, 20*s, 4*s, 5*s)}, 0, "v"},
		{"two replicas tell of one", 2, []Waiter{waiting("w", 4, 20*s, 4*s, 5*s), waiting("w", 3, 20*s, 4*s, 5*s)}, 0, ""},
		{"tries that alternate between two replicas", 1, []Waiter{waiting("w", 4, 20*s, 4*s, 10*s), waiting("w", 4, 25*s, 9*s, 10*s)}, 0, "w"},
		{"the hold is not over", 1, []Waiter{waiting("w", 4, 20*s, 4*s, 5*s)}, 1200 * time.Millisecond, "w"},
		{"the hold is over", 1, []Waiter{waiting("w", 4, 20*s, 4*s, 50*time.Millisecond)}, Hold, ""},
	} {
		turns := NewTurns(func() float64 { return 0 })
		if tt.after > 0 {
			turns.Yield(fair, me, 1, []Waiter{waiting("first", 1, 20*s, 0, 50*time.Millisecond)}, noon)
		}
		got, _ := turns.Yield(fair, me, tt.free, tt.others, noon.Add(tt.after))
		if got.UID != tt.want {
			t.Errorf("%s: gives way to %q, want %q", tt.name, got.UID, tt.want)
		}
	}
}

// TestHoldBeginsAnew: once budget was spent, what frees next is kept again.
func TestHoldBeginsAnew(t *testing.T) {
	turns := NewTurns(func() float64 { return 0 })
	me := Waiter{Cluster: "c2", UID: "me", Ticket: 5}
	yields := func(after time.Duration) bool {
		now := noon.Add(after)
		_, yes := turns.Yield(fair, me, 1, []Waiter{{UID: "w", First: noon.Add(-time.Minute), Last: now, Every: time.Millisecond}}, now)
		return yes
	}
	if !yields(0) || !yields(Hold-1) || yields(Hold) || yields(2*Hold) {
		t.Error("the hold does not last from the first yield on")
	}
	turns.Spent(fair)
	if !yields(2 * Hold) {
		t.Error("what frees next is not kept")
	}
}

func TestWaitingAreTheOldest(t *testing.T) {
	turns := NewTurns(func() float64 { return 0 })
	for second := range 10 {
		for i := range 9 {
			if i == 8 && second > 1 {
				continue // has given up
			}
			turns.Refused(fair, Waiter{Cluster: "c1", UID: fmt.Sprint(i), Ticket: uint64(20 - i)}, noon.Add(time.Duration(second)*time.Second))
		}
	}
	turns.Refused(fair, Waiter{Cluster: "c1", UID: "new", Ticket: 1}, noon.Add(9*time.Second))
	var got []string
	for _, w := range turns.Waiting(fair, noon.Add(9*time.Second)) {
		got = append(got, fmt.Sprintf("%s/%d every %s", w.UID, w.Ticket, w.Every))
	}
	want := []string{"7/13 every 1s", "6/14 every 1s", "5/15 every 1s", "4/16 every 1s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if turns.Place(fair, "7") != 13 || turns.Place(fair, "8") != 0 || turns.Place("n/other", "7") != 0 {
		t.Error("places are not kept, or those of who has given up are")
	}
	turns.Served(fair, "7")
	if turns.Place(fair, "7") != 0 {
		t.Error("who was served still waits")
	}
	if turns.Waiting(fair, noon.Add(time.Hour)); len(turns.lines) != 0 {
		t.Error("a budget that nobody waits for is remembered")
	}
}

// contest is one budget with one slot: an eager requester asks all the time,
// others every 5 s. A disruption keeps the slot for busy. It returns how often
// the slot was free for a polite one until each was served, and the longest
// time for which it was free.
type contest struct {
	polite int
	busy   func() time.Duration
	random *rand.Rand
	// unfair switches the turns off.
	unfair bool
}

const (
	contests = 6
	// contestLimit is after how many disruptions who was not served has starved.
	contestLimit = 150
)

func (c contest) run() (rounds int, idle time.Duration) {
	const step = 10 * time.Millisecond
	turns := NewTurns(c.random.Float64)
	now, until, freed := noon, noon, noon
	served := map[string]bool{}
	asks := func(uid string, ticket uint64) bool {
		me := Waiter{Cluster: uid, UID: uid, Pod: uid, Ticket: ticket}
		if p := turns.Place(fair, uid); p > 0 {
			me.Ticket = p
		}
		if now.Before(until) {
			turns.Spent(fair)
			turns.Refused(fair, me, now)
			return false
		}
		if _, yes := turns.Yield(fair, me, 1, nil, now); yes && !c.unfair {
			turns.Refused(fair, me, now)
			return false
		}
		turns.Served(fair, uid)
		idle = max(idle, now.Sub(freed))
		until = now.Add(c.busy())
		freed = until
		rounds++
		return true
	}
	for tick := 0; len(served) < c.polite && rounds < contestLimit; tick++ {
		now = noon.Add(time.Duration(tick) * step)
		// An evicted pod's successor is another pod.
		if tick%5 == 0 {
			asks(fmt.Sprint("eager-", rounds), uint64(2+rounds))
		}
		for i := range c.polite {
			uid := fmt.Sprint("polite-", i)
			if phase := 110 + 90*i; !served[uid] && tick%500 == phase {
				if asks(uid, 1) {
					served[uid] = true
				}
			}
		}
	}
	return rounds, idle
}

// TestNobodyStarves: whatever the rhythm of disruptions, those who ask every 5 s
// are served within a bounded number of them, and budget is never
// free for long while somebody asks.
func TestNobodyStarves(t *testing.T) {
	constant := func(d time.Duration) func(*rand.Rand) func() time.Duration {
		return func(*rand.Rand) func() time.Duration { return func() time.Duration { return d } }
	}
	for name, busy := range map[string]func(*rand.Rand) func() time.Duration{
		"fast pods": constant(200 * time.Millisecond),
		"2s":        constant(2 * time.Second),
		"in step":   constant(5 * time.Second),
		"in step 2": constant(10 * time.Second),
		"slow pods": func(r *rand.Rand) func() time.Duration {
			return func() time.Duration { return 3*time.Second + time.Duration(r.Int64N(int64(8*time.Second))) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			worst, longest, starved := 0, time.Duration(0), 0
			for seed := range uint64(contests) {
				random := rand.New(rand.NewPCG(seed, 7))
				rounds, idle := contest{polite: 4, busy: busy(random), random: random}.run()
				worst, longest = max(worst, rounds), max(longest, idle)
				random = rand.New(rand.NewPCG(seed, 7))
				if rounds, _ := (contest{polite: 4, busy: busy(random), random: random, unfair: true}).run(); rounds == contestLimit {
					starved++
				}
			}
			t.Logf("4 polite ones served within %d disruptions at worst, budget free for at most %s; without turns %d of %d runs starve", worst, longest, starved, contests)
			if worst == contestLimit {
				t.Errorf("after %d disruptions not all were served", worst)
			}
			if starved < contests/2 {
				t.Errorf("without turns only %d of %d runs starve: this proves little", starved, contests)
			}
			if longest > Hold+100*time.Millisecond {
				t.Errorf("budget was free for %s", longest)
			}
		})
	}
}
