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

// asking is a request of claim me (ticket 5, cluster c2) that finds so much free.
func asking(free int, others ...Waiter) Ask {
	return Ask{
		Budget: fair, Me: Waiter{Cluster: "c2", UID: "me", Ticket: 5}, Free: free, Since: noon, Told: others,
		Waits: func(uid string) bool { return uid != "served" },
	}
}

func TestYield(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	polite := waiting("w", 4, 20*s, 4*s, 5*s)
	for _, tt := range []struct {
		name   string
		free   int
		others []Waiter
		after  time.Duration // since noon, from when on budget is kept
		want   string
	}{
		{"nobody else", 1, nil, 0, ""},
		{"older and about to ask", 1, []Waiter{polite}, 0, "w"},
		{"younger", 1, []Waiter{waiting("w", 6, 20*s, 4*s, 5*s)}, 0, ""},
		{"same ticket, the cluster decides", 1, []Waiter{waiting("w", 5, 20*s, 4*s, 5*s)}, 0, "w"},
		{"myself", 1, []Waiter{waiting("me", 4, 20*s, 4*s, 5*s)}, 0, ""},
		{"being served", 1, []Waiter{waiting("served", 4, 20*s, 4*s, 5*s)}, 0, ""},
		{"has not waited long", 1, []Waiter{waiting("w", 4, 7*s, 4*s, 5*s)}, 0, ""},
		{"has asked once only", 1, []Waiter{waiting("w", 4, 20*s, 20*s, 0)}, 0, ""},
		{"not due within the hold", 1, []Waiter{waiting("w", 4, 20*s, 3*s, 5*s)}, 0, ""},
		{"due once a minute", 1, []Waiter{waiting("w", 4, 300*s, 59*s, 60*s)}, 0, "w"},
		{"just late", 1, []Waiter{waiting("w", 4, 20*s, 5200*ms, 5*s)}, 0, "w"},
		{"overdue", 1, []Waiter{waiting("w", 4, 20*s, 5400*ms, 5*s)}, 0, ""},
		{"eager, heard of a moment ago", 1, []Waiter{waiting("w", 4, 20*s, 3*s, 50*ms)}, 0, "w"},
		{"eager, not heard of any more", 1, []Waiter{waiting("w", 4, 20*s, 4100*ms, 50*ms)}, 0, ""},
		{"enough for both", 2, []Waiter{polite}, 0, ""},
		{"two older ones for two", 2, []Waiter{polite, waiting("v", 3, 20*s, 4*s, 5*s)}, 0, "v"},
		{"one of them served", 2, []Waiter{polite, waiting("served", 3, 20*s, 4*s, 5*s)}, 0, ""},
		{"two replicas tell of one", 2, []Waiter{polite, waiting("w", 3, 20*s, 4*s, 5*s)}, 0, ""},
		{"tries that alternate between two replicas", 1, []Waiter{waiting("w", 4, 20*s, 4*s, 10*s), waiting("w", 4, 25*s, 9*s, 10*s)}, 0, "w"},
		{"two replicas, the older place counts", 1, []Waiter{waiting("w", 9, 20*s, 4*s, 5*s), waiting("w", 4, 20*s, 9*s, 5*s)}, 0, "w"},
		{"two replicas, the longer wait counts", 1, []Waiter{waiting("w", 4, 5*s, 4*s, 5*s), waiting("w", 4, 20*s, 9*s, 5*s)}, 0, "w"},
		{"the hold is not over", 1, []Waiter{waiting("w", 4, 20*s, 4800*ms, 5*s)}, 1200 * ms, "w"},
		{"not due before its end", 1, []Waiter{waiting("w", 4, 20*s, 4600*ms, 5*s)}, 1200 * ms, ""},
		{"the hold is over", 1, []Waiter{waiting("w", 4, 20*s, 0, 50*ms)}, Hold, ""},
		// Half of a hold is kept for victims of their rhythm here.
		{"a victim", 1, []Waiter{waiting("w", 4, 31*s, s, 5*s)}, 0, "w"},
		{"a victim, later", 1, []Waiter{waiting("w", 4, 31*s, s, 5*s)}, Hold / 2, ""},
		{"a victim that has given up", 1, []Waiter{waiting("w", 4, 31*s, 12100*ms, 5*s)}, 0, ""},
		{"no victim yet", 1, []Waiter{waiting("w", 4, 29*s, s, 5*s)}, 0, ""},
	} {
		turns := NewTurns(func() float64 { return 0.5 })
		turns.line(fair)
		a := asking(tt.free, tt.others...)
		for i := range a.Told {
			// As they are at the moment of the request.
			a.Told[i].First, a.Told[i].Last = a.Told[i].First.Add(tt.after), a.Told[i].Last.Add(tt.after)
		}
		got, yields := turns.Yield(a, noon.Add(tt.after))
		if got.UID != tt.want || yields != (tt.want != "") {
			t.Errorf("%s: gives way to %q, want %q", tt.name, got.UID, tt.want)
		}
	}
}

func TestHolds(t *testing.T) {
	turns := NewTurns(func() float64 { return 0 })
	since := func(after time.Duration) time.Duration {
		return turns.Held([]string{"n/other", fair}, noon.Add(after)).Sub(noon)
	}
	check := func(what string, got, want time.Duration) {
		t.Helper()
		if got != want {
			t.Errorf("%s: kept since %s, want %s", what, got, want)
		}
	}
	check("nothing is kept", since(time.Second), time.Second)
	turns.Hold(fair, noon)
	turns.Hold(fair, noon.Add(time.Second))
	check("a hold is not renewed", since(time.Second), 0)
	turns.Served(fair, "x", false)
	check("more is free", since(time.Second), 0)
	turns.Served(fair, "x", true)
	check("the last one went", since(2*time.Second), 2*time.Second)
	turns.Hold(fair, noon.Add(2*time.Second))
	turns.Hold("n/other", noon.Add(3*time.Second))
	check("the holds of two budgets do not add up", since(4*time.Second), 2*time.Second)
	turns.Spent(fair)
	check("spent", since(4*time.Second), 3*time.Second)
}

func TestWaitingAreTheOldest(t *testing.T) {
	turns := NewTurns(func() float64 { return 0 })
	for second := range 10 {
		for i := range 9 {
			if i == 8 && second > 3 {
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
	if turns.Place(fair, "7") != 13 || turns.Place(fair, "8") != 12 || turns.Place("n/other", "7") != 0 {
		t.Error("places are not kept")
	}
	turns.Served(fair, "7", false)
	if turns.Place(fair, "7") != 0 {
		t.Error("who was served still waits")
	}
	turns.Refused("n/other", Waiter{UID: "o", Ticket: 1}, noon.Add(time.Hour))
	if _, still := turns.lines[fair]; still {
		t.Error("a budget that nobody waits for any more is remembered")
	}
}

// contest is one budget with one slot: in one cluster an eager requester asks
// all the time, in another one others ask once in a period. A disruption keeps
// the slot for busy.
type contest struct {
	polite int
	period time.Duration
	busy   func() time.Duration
	random *rand.Rand
	// unfair switches the turns off.
	unfair bool
}

const (
	contests = 4
	// contestLimit is after how many disruptions who was not served has starved.
	contestLimit = 300
	// tick of a contest; news takes some of it.
	contestTick = 10 * time.Millisecond
)

// run returns how many disruptions it took until every polite one was served,
// and the longest time for which budget was free while somebody asked.
func (c contest) run() (rounds int, idle time.Duration) {
	near, far := NewTurns(c.random.Float64), NewTurns(c.random.Float64)
	now, until, freed := noon, noon, noon
	var told []Waiter // what the eager one's cluster was told
	served := map[string]bool{}
	asks := func(turns *Turns, others []Waiter, uid string, ticket uint64) bool {
		me := Waiter{Cluster: "c1", UID: uid, Pod: uid, Ticket: ticket}
		if p := turns.Place(fair, uid); p > 0 {
			me.Ticket = p
		}
		if now.Before(until) {
			turns.Spent(fair)
			turns.Refused(fair, me, now)
			return false
		}
		since := turns.Held([]string{fair}, now)
		_, yields := turns.Yield(Ask{Budget: fair, Me: me, Free: 1, Since: since, Told: others, Waits: func(uid string) bool { return !served[uid] }}, now)
		if yields && !c.unfair {
			turns.Hold(fair, since)
			turns.Refused(fair, me, now)
			return false
		}
		turns.Served(fair, uid, true)
		idle = max(idle, now.Sub(freed))
		until = now.Add(c.busy())
		freed = until
		rounds++
		return true
	}
	politely := make([]string, c.polite)
	for i := range politely {
		politely[i] = fmt.Sprint("polite-", i)
	}
	eager, evicted := "", -1
	for tick := 0; len(served) < c.polite && rounds < contestLimit; tick++ {
		now = noon.Add(time.Duration(tick) * contestTick)
		if tick%5 == 0 {
			// An evicted pod's successor is another pod.
			if evicted != rounds {
				eager, evicted = fmt.Sprint("eager-", rounds), rounds
			}
			asks(near, told, eager, uint64(2+rounds))
		}
		for i, uid := range politely {
			period := int(c.period / contestTick)
			if !served[uid] && tick%period == (110+190*i)%period && asks(far, nil, uid, 1) {
				served[uid] = true
			}
		}
		if tick%100 == 20 {
			// Once a second, each waiter as it asked last.
			told = far.Waiting(fair, now)
		}
	}
	return rounds, idle
}

// TestNobodyStarves: whatever the rhythms of disruptions and of those who ask
// rarely, they are served within a bounded number of disruptions, and budget is
// never free for long while somebody asks. Without turns they starve.
func TestNobodyStarves(t *testing.T) {
	constant := func(d time.Duration) func(*rand.Rand) func() time.Duration {
		return func(*rand.Rand) func() time.Duration { return func() time.Duration { return d } }
	}
	for name, busy := range map[string]func(*rand.Rand) func() time.Duration{
		"200ms": constant(200 * time.Millisecond),
		"2s":    constant(2 * time.Second),
		"5s":    constant(5 * time.Second),
		"7s":    constant(7 * time.Second),
		"3s to 11s": func(r *rand.Rand) func() time.Duration {
			return func() time.Duration { return 3*time.Second + time.Duration(r.Int64N(int64(8*time.Second))) }
		},
	} {
		for _, period := range []time.Duration{5 * time.Second, 7 * time.Second, 10 * time.Second, 30 * time.Second} {
			t.Run(fmt.Sprintf("busy %s, asked every %s", name, period), func(t *testing.T) {
				t.Parallel()
				worst, longest, starved := 0, time.Duration(0), 0
				for seed := range uint64(contests) {
					random := rand.New(rand.NewPCG(seed, 7))
					c := contest{polite: 4, period: period, busy: busy(random), random: random}
					rounds, idle := c.run()
					worst, longest = max(worst, rounds), max(longest, idle)
					c.unfair = true
					if rounds, _ := c.run(); rounds == contestLimit {
						starved++
					}
				}
				t.Logf("4 polite ones served within %d disruptions at worst, budget free for at most %s; without turns %d of %d runs starve", worst, longest, starved, contests)
				if worst == contestLimit {
					t.Errorf("after %d disruptions not all were served", worst)
				}
				if longest > Hold+100*time.Millisecond {
					t.Errorf("budget was free for %s", longest)
				}
				if starved < contests/2 {
					t.Errorf("without turns only %d of %d runs starve: this proves little", starved, contests)
				}
			})
		}
	}
}
