package claim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// world is several whole clusters in one goroutine. Everything that takes time
// is an event, and a seeded scheduler picks the next one: any interleaving of
// issuing, taking effect and being answered can happen, and a seed repeats it.
type world struct {
	scenario
	rand     *rand.Rand
	now      time.Time
	clusters []*member
	events   []event
	// stalled events have met a slow link or a paused process.
	stalled  []event
	timers   []timer
	observer *observer
	stats    stats
	serial   int
	trace    func(format string, args ...any)
	// traced: somebody reads the trace.
	traced bool
	// settled ends the simulated environment: only pending events remain to run.
	settled bool
}

// event is something that may happen at any time from now on.
type event func()

// timer happens at due and not before.
type timer struct {
	due time.Time
	run func()
}

// scenario is what a seed draws before the world starts.
type scenario struct {
	seed                         uint64
	size, pods, surge, instances int
	slots, budgets, steps        int
	relative, joins, tightens    bool
	// sticky: a marker outlives a new incarnation, until the instance is wiped.
	sticky bool
	// lose, of 1000 I/Os. The others are weights of environment actions.
	lose, crash, wipe, cut, lead, kill, flap, expire, grow int
	// stall, of 100 events; idle, of 4 actions of the API server, happen late.
	stall, idle int
	// eager is the weight of requests.
	eager int
	// calm, in steps: how rarely minutes pass at once.
	calm int
	// pending is when any replica withdraws a claim: soon is as safe as late.
	pending time.Duration
	broken  breakage
}

func draw(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	maybe := func(weight int) int { return weight * r.IntN(2) }
	s := scenario{
		seed: seed, size: 2 + r.IntN(3), pods: 1 + r.IntN(3), surge: r.IntN(4) / 3, instances: 1 + r.IntN(2),
		slots: 1 + r.IntN(3), budgets: 1 + r.IntN(4)/3, steps: 700,
		relative: r.IntN(2) == 0, tightens: r.IntN(4) == 0, grow: 3 * (r.IntN(3) / 2), sticky: r.IntN(2) == 0,
		lose: maybe(30), crash: maybe(2), wipe: maybe(3), cut: maybe(4), lead: maybe(2), expire: maybe(3),
		stall: maybe(6), idle: maybe(2), calm: 30 << r.IntN(5), eager: 8,
		pending: PendingTimeout,
	}
	s.joins = s.relative && r.IntN(3) == 0
	s.tightens = s.tightens && !s.joins
	if r.IntN(3) == 0 {
		s.kill, s.flap = maybe(3), 4
	}
	if r.IntN(4) == 0 {
		s.pending = time.Second
	}
	if s.size == 4 {
		s.pods = min(s.pods, 2)
	}
	s.slots = min(s.slots, s.size*s.pods-1)
	return s
}

// stats show that runs are not vacuous.
type stats struct {
	steps, requests, grants, allowed, denied, undecidable, repeats, waits int
	crashes, wipes, leads, kills, lost, fenced, restores                  int
	drops, releases, withdrawn, full                                      int
}

func (s *stats) answer(o Outcome) {
	switch {
	case o.Repeated:
		s.repeats++
	case o.Allowed:
		s.allowed++
	case o.Undecidable:
		s.undecidable++
	default:
		s.denied++
	}
}

func (s *stats) add(o stats) {
	s.steps += o.steps
	s.requests += o.requests
	s.grants += o.grants
	s.allowed += o.allowed
	s.denied += o.denied
	s.undecidable += o.undecidable
	s.repeats += o.repeats
	s.waits += o.waits
	s.crashes += o.crashes
	s.wipes += o.wipes
	s.leads += o.leads
	s.kills += o.kills
	s.lost += o.lost
	s.fenced += o.fenced
	s.restores += o.restores
	s.drops += o.drops
	s.releases += o.releases
	s.withdrawn += o.withdrawn
	s.full += o.full
}

func newWorld(s scenario) *world {
	w := &world{scenario: s, rand: rand.New(rand.NewPCG(s.seed, 2)), now: time.Unix(1_000_000, 0), trace: func(string, ...any) {}}
	w.observer = &observer{world: w, newest: make([]*proof, s.budgets), desired: make([]int, s.budgets)}
	for i := range s.size {
		w.clusters = append(w.clusters, newMember(w, i))
	}
	return w
}

// start brings every store into service without faults.
func (w *world) start() {
	lose := w.lose
	w.lose = 0
	for range 200 {
		for _, c := range w.clusters {
			for _, i := range c.instances {
				c.publishers[0].advance(i)
			}
		}
		for len(w.events)+len(w.stalled) > 0 {
			w.runPending()
		}
	}
	w.lose = lose
}

// later schedules an event at any time to come.
func (w *world) later(run event) {
	if w.rand.IntN(100) < w.stall {
		w.stalled = append(w.stalled, run)
		return
	}
	w.events = append(w.events, run)
}

// timer schedules what happens at due.
func (w *world) timer(due time.Time, run func()) { w.timers = append(w.timers, timer{due, run}) }

// step runs one event or one action of the environment.
func (w *world) step() error {
	w.stats.steps++
	switch i := w.due(); {
	case i >= 0:
		run := w.timers[i].run
		w.timers = slices.Delete(w.timers, i, i+1)
		run()
	case len(w.events)+len(w.stalled) > 0 && (w.settled || w.rand.IntN(10) < 8):
		w.runPending()
	case !w.settled:
		w.act()
	}
	w.advanceTime()
	return w.observer.check()
}

func (w *world) runPending() {
	from := &w.events
	if len(w.stalled) > 0 && (len(w.events) == 0 || w.rand.IntN(60) == 0) {
		from = &w.stalled
	}
	i, last := w.rand.IntN(len(*from)), len(*from)-1
	run := (*from)[i]
	(*from)[i] = (*from)[last]
	*from = (*from)[:last]
	run()
}

func (w *world) due() int {
	return slices.IndexFunc(w.timers, func(t timer) bool { return !t.due.After(w.now) })
}

// advanceTime passes mostly milliseconds, sometimes minutes, but never a timer.
func (w *world) advanceTime() {
	d := time.Duration(w.rand.Int64N(int64(20 * time.Millisecond)))
	switch w.rand.IntN(w.calm) {
	case 0:
		d = time.Duration(w.rand.Int64N(int64(3 * time.Minute)))
	case 1, 2:
		d = time.Duration(w.rand.Int64N(int64(2 * time.Second)))
	}
	w.now = w.now.Add(d)
	for _, t := range w.timers {
		if t.due.Before(w.now) {
			w.now = t.due
		}
	}
}

// io is one request over a network. It takes effect and is answered at two
// later times. A fault loses it, loses its answer, or lets it land after the
// caller has given up. Nobody hears the answer of a caller that is not alive.
func (w *world) io(alive func() bool, reachable func() bool, effect func() func(), fail func()) {
	answer := func(f func()) {
		w.later(func() {
			if alive() {
				f()
			}
		})
	}
	fate := w.rand.IntN(1000)
	if fate < w.lose {
		w.stats.lost++
	}
	switch {
	case fate < w.lose/3:
		answer(fail)
	case fate < w.lose*2/3:
		w.later(func() {
			if reachable() {
				effect()
			}
			answer(fail)
		})
	case fate < w.lose:
		w.later(func() {
			if reachable() {
				effect()
			}
		})
		answer(fail)
	default:
		w.later(func() {
			if !reachable() {
				answer(fail)
				return
			}
			answer(effect())
		})
	}
}

func always() bool { return true }

// fresh returns a name that was never used before.
func (w *world) fresh(prefix string) string {
	w.serial++
	return fmt.Sprintf("%s%d", prefix, w.serial)
}

func pickOne[T any](w *world, from []T) T { return from[w.rand.IntN(len(from))] }

func budgetName(b int) string { return [...]string{"shop/db", "shop/even"}[b] }

// bound is the budget's bound; a tightened one gives a slot less.
func (w *world) bound(b int, tight bool) budget.Bound {
	slots := w.slots
	if tight {
		slots--
	}
	if w.relative {
		return budget.Bound{Kind: budget.MaxUnavailable, Value: slots}
	}
	expected := 0
	for i := range w.size {
		expected += w.expected(i, b)
	}
	return budget.Bound{Kind: budget.MinAvailable, Value: max(0, expected-slots)}
}

// expected returns how many pods of budget b cluster i asks for: the second
// budget covers every other pod of the first.
func (w *world) expected(_, b int) int {
	if b == 1 {
		return (w.pods + 1) / 2
	}
	return w.pods
}
