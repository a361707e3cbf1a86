package simulation

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"
)

// scheduler is the only one who decides what happens next. All simulated calls
// park here; it lets one happen at a time, when every goroutine waits.
type scheduler struct {
	rand  *rand.Rand
	start time.Time
	queue queue
	steps int
	// digest covers everything that ever happened, in its order.
	digest uint64
	// told, if not nil, receives every step in words.
	told func(line string)
	// after is called after every step that may have changed anything.
	after func()
	// network draws what becomes of a call.
	network func(*call) fate

	timer   *time.Timer
	arrived chan struct{}

	mu       sync.Mutex
	arrivals []*call
}

func newScheduler(seed uint64) *scheduler {
	s := &scheduler{rand: rand.New(rand.NewPCG(seed, 2)), start: time.Now(), arrived: make(chan struct{}, 1), timer: time.NewTimer(time.Hour), digest: seed}
	return s
}

// now is the time since the simulation began.
func (s *scheduler) now() time.Duration { return time.Since(s.start) }

// event is something that happens at a time.
type event struct {
	due time.Duration
	// order among those that are due at the same time.
	order int64
	key   string
	// run reports whether it may have woken a goroutine.
	run func() (wakes bool)
}

// queue is a heap of events.
type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].due, q[j].due), cmp.Compare(q[i].order, q[j].order)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}

// at lets something happen at a time.
func (s *scheduler) at(due time.Duration, key string, run func() bool) {
	heap.Push(&s.queue, &event{due: due, order: s.rand.Int64(), key: key, run: run})
}

// later is at, after a delay, for what wakes nobody by itself.
func (s *scheduler) later(delay time.Duration, key string, run func()) {
	s.at(s.now()+delay, key, func() bool { run(); return true })
}

// run lets everything happen until a time, or until stop says so.
func (s *scheduler) run(until time.Duration, stop func() bool) {
	for {
		synctest.Wait()
		s.after()
		if stop() {
			return
		}
		s.admit()
		for len(s.queue) > 0 && s.queue[0].due <= s.now() {
			e := heap.Pop(&s.queue).(*event)
			s.note(e.key)
			if e.run() {
				break
			}
			s.after()
		}
		now, next := s.now(), until
		if len(s.queue) > 0 {
			next = min(next, s.queue[0].due)
		}
		if next <= now {
			if now >= until {
				return
			}
			continue
		}
		s.timer.Reset(next - now)
		select {
		case <-s.arrived:
		case <-s.timer.C:
		}
	}
}

func (s *scheduler) note(key string) {
	s.steps++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %s", s.digest, s.now(), key)
	s.digest = h.Sum64()
	if s.told != nil {
		s.told(fmt.Sprintf("%12s  %s", s.now(), key))
	}
}

// say adds a line to what is told; it is no step.
func (s *scheduler) say(format string, args ...any) {
	if s.told != nil {
		s.told(fmt.Sprintf("%12s    %s", s.now(), fmt.Sprintf(format, args...)))
	}
}

// call is one call of a process to the outside, or a pause of its own.
type call struct {
	process *process
	link    link
	// key is what the call is, by its content: calls of the same key that are
	// parked at the same time share their fate, for nobody can tell them apart.
	key string
	// effect happens at the other side.
	effect func() (any, error)
	// lost is what the caller is told if its answer is lost.
	lost error
	// local: it goes nowhere, only its order among others is drawn.
	local bool

	answered chan struct{}
	answer   any
	err      error
}

// fate of a call.
type fate struct {
	// there and back take that long.
	there, back time.Duration
	// noEffect: it never arrives. noAnswer: the caller hears of an error instead.
	noEffect, noAnswer bool
}

var errKilled = errors.New("the process was killed")

// do performs a call for a process, as far as the network lets it.
func do[A any](ctx context.Context, c *call) (A, error) {
	var none A
	if c.process.isDead() {
		return none, errKilled
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	c.process.scheduler.arrive(c)
	select {
	case <-c.answered:
		if c.err != nil {
			return none, c.err
		}
		return c.answer.(A), nil
	case <-ctx.Done():
		return none, ctx.Err()
	case <-c.process.killed:
		return none, errKilled
	}
}

// yield lets the scheduler choose which of several goroutines goes on first.
func (p *process) yield(what string) {
	if p.isDead() {
		return
	}
	c := &call{process: p, key: p.name + " goes on: " + what, local: true}
	p.scheduler.arrive(c)
	select {
	case <-c.answered:
	case <-p.killed:
	}
}

func (s *scheduler) arrive(c *call) {
	c.answered = make(chan struct{})
	s.mu.Lock()
	s.arrivals = append(s.arrivals, c)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// admit draws the fates of the calls that have arrived, in the order of their content.
func (s *scheduler) admit() {
	s.mu.Lock()
	arrivals := s.arrivals
	s.arrivals = nil
	s.mu.Unlock()
	slices.SortFunc(arrivals, func(a, b *call) int { return cmp.Compare(a.key, b.key) })
	for len(arrivals) > 0 {
		same := 1
		for same < len(arrivals) && arrivals[same].key == arrivals[0].key {
			same++
		}
		s.schedule(arrivals[:same])
		arrivals = arrivals[same:]
	}
}

// schedule lets calls of one key happen, all together.
func (s *scheduler) schedule(calls []*call) {
	first := calls[0]
	answer := func() bool {
		woken := false
		for _, c := range calls {
			if !c.process.isDead() {
				close(c.answered)
				woken = true
			}
		}
		return woken
	}
	if first.local {
		// A moment later, so that what it begins does not end when something else
		// does that began at the same time.
		s.at(s.now()+1+time.Duration(s.rand.Int64N(int64(time.Microsecond))), first.key, func() bool {
			for _, c := range calls {
				if c.effect != nil {
					c.answer, c.err = c.effect()
				}
			}
			return answer()
		})
		return
	}
	f := s.network(first)
	arrives := s.now() + f.there
	if !f.noEffect {
		s.at(arrives, first.key+" >", func() bool {
			for _, c := range calls {
				value, err := c.effect()
				if !f.noAnswer {
					c.answer, c.err = value, err
				}
			}
			return false
		})
	}
	if f.noEffect || f.noAnswer {
		for _, c := range calls {
			c.err = first.lost
		}
		s.at(s.now()+f.back, first.key+" lost", answer)
		return
	}
	s.at(arrives+f.back, first.key+" <", answer)
}
