package claim

import (
	"cmp"
	"slices"
	"time"
)

// The bounds of waiting. All of them are about fairness; none is about safety.
const (
	// LongWait is how long a pod must have been asked for in vain before others
	// give way to it: by then kubectl drain has tried three times. Below it, whoever asks first is served first.
	LongWait = 8 * time.Second
	// Hold is for how long at most free budget is kept for those who wait, since
	// the first request gave way to them.
	Hold = 1500 * time.Millisecond
	// veryLongWait is when a pod may be a victim of its rhythm: budget frees each
	// time just after its try. A pause of random length then breaks the rhythm.
	veryLongWait = 30 * time.Second
	// lateness that a try is granted beyond its rhythm.
	lateness = 300 * time.Millisecond
	// eager: who asks more often than that is always about to ask.
	eager = 2 * time.Second
	// maxNoted bounds how many pods of a budget one replica tells the mesh of.
	maxNoted = 4
)

// Waiter is a pod whose disruption was refused for want of budget, and that
// somebody asks for again and again.
type Waiter struct {
	Cluster, UID, Pod string
	// Ticket is the place: that of its first try, kept by every later one and by the claim.
	Ticket uint64
	// First and Last try, by the clock of whoever holds the value; Last as heard of.
	First, Last time.Time
	// Every is the time between the last two tries.
	Every time.Duration
}

// before orders waiters as Claim.Before orders claims.
func (w Waiter) before(o Waiter) bool {
	return cmp.Or(cmp.Compare(w.Ticket, o.Ticket), cmp.Compare(w.Cluster, o.Cluster), cmp.Compare(w.UID, o.UID)) < 0
}

// comes reports whether the next try is due before limit and not overdue.
func (w Waiter) comes(now, limit time.Time) bool {
	if w.Every < eager {
		// It is heard of only now and then.
		return now.Sub(w.Last) <= 2*eager
	}
	next := w.Last.Add(w.Every)
	return !next.After(limit) && !now.After(next.Add(lateness))
}

// gone reports whether nobody asks for the pod any more.
func (w Waiter) gone(now time.Time) bool { return now.Sub(w.Last) > max(2*w.Every, 2*eager)+eager }

// Turns remembers who waits for a budget, so that a requester who asks rarely
// is not passed over for ever by one who asks all the time. A waiter keeps its
// ticket, so it becomes the oldest of all in time; younger requests give way
// to it when it is about to ask again, for Hold at most. Safety does not rest
// on it: giving way is a refusal, and refusing is always allowed (R5).
//
// It is not safe for concurrent use.
type Turns struct {
	random func() float64
	lines  map[string]*line
}

// line is what is known of one budget.
type line struct {
	waiters map[string]*Waiter
	// held is since when free budget is kept; zero if it is not.
	held time.Time
	// pause is the random length of a hold for a victim of its rhythm.
	pause  time.Duration
	pruned time.Time
}

// NewTurns returns empty Turns. random returns a number in [0, 1).
func NewTurns(random func() float64) *Turns {
	return &Turns{random: random, lines: map[string]*line{}}
}

// Place returns the ticket of a pod that has been refused before, 0 for another.
func (t *Turns) Place(budget, uid string) uint64 {
	if l := t.lines[budget]; l != nil && l.waiters[uid] != nil {
		return l.waiters[uid].Ticket
	}
	return 0
}

// Refused tells of a try in vain, and returns whether the pod has waited long.
// The waiter's Ticket is used if it is its first try.
func (t *Turns) Refused(budget string, w Waiter, now time.Time) (long bool) {
	l := t.lines[budget]
	if l == nil {
		l = &line{waiters: map[string]*Waiter{}}
		t.lines[budget] = l
	}
	if now.Sub(l.pruned) > time.Second {
		l.prune(now)
	}
	old := l.waiters[w.UID]
	if old == nil {
		w.First, w.Last = now, now
		l.waiters[w.UID] = &w
		return false
	}
	old.Every, old.Last = now.Sub(old.Last), now
	return now.Sub(old.First) >= LongWait
}

// Served forgets a pod that waits no more: it was granted, or is gone.
func (t *Turns) Served(budget, uid string) {
	l := t.lines[budget]
	if l == nil {
		return
	}
	delete(l.waiters, uid)
	l.held = time.Time{}
	if len(l.waiters) == 0 {
		delete(t.lines, budget)
	}
}

// Spent tells that a budget has nothing free: the next hold begins anew.
func (t *Turns) Spent(budget string) {
	if l := t.lines[budget]; l != nil {
		l.held = time.Time{}
	}
}

// Waiting returns the oldest of those who have waited long for a budget, to
// tell the mesh of them, and forgets who has given up.
func (t *Turns) Waiting(budget string, now time.Time) []Waiter {
	l := t.lines[budget]
	if l == nil {
		return nil
	}
	if l.prune(now); len(l.waiters) == 0 {
		delete(t.lines, budget)
		return nil
	}
	var all []Waiter
	for _, w := range l.waiters {
		if now.Sub(w.First) >= LongWait {
			all = append(all, *w)
		}
	}
	slices.SortFunc(all, compareWaiters)
	return all[:min(len(all), maxNoted)]
}

// Yield reports whether a request gives way, and to whom: at least as many
// older waiters are about to ask as the budget has disruptions free. others
// are the waiters that the mesh has told of; those whose pods are claimed
// or unavailable already must be left out.
func (t *Turns) Yield(budget string, me Waiter, free int, others []Waiter, now time.Time) (Waiter, bool) {
	var own map[string]*Waiter
	l := t.lines[budget]
	if l != nil {
		own = l.waiters
	}
	older := olderThan(me, own, others, now)
	if len(older) < free || len(older) == 0 {
		return Waiter{}, false
	}
	if l == nil {
		l = &line{waiters: map[string]*Waiter{}, pruned: now}
		t.lines[budget] = l
	}
	start := l.held
	if start.IsZero() {
		start = now
		l.pause = time.Duration(t.random() * float64(Hold))
	}
	limit := start.Add(Hold)
	if !now.Before(limit) {
		return Waiter{}, false
	}
	awaited := slices.DeleteFunc(older, func(w Waiter) bool {
		victim := now.Sub(w.First) >= veryLongWait && now.Before(start.Add(l.pause))
		return !victim && !w.comes(now, limit)
	})
	if len(awaited) < free || len(awaited) == 0 {
		return Waiter{}, false
	}
	l.held = start
	return awaited[0], true
}

// olderThan returns those who go before me, each once, oldest first.
func olderThan(me Waiter, own map[string]*Waiter, others []Waiter, now time.Time) []Waiter {
	known := map[string]Waiter{}
	for _, w := range own {
		known[w.UID] = *w
	}
	for _, w := range others {
		if old, both := known[w.UID]; both {
			w = w.merge(old)
		}
		known[w.UID] = w
	}
	var older []Waiter
	for _, w := range known {
		if w.UID != me.UID && w.before(me) && now.Sub(w.First) >= LongWait && !w.gone(now) {
			older = append(older, w)
		}
	}
	slices.SortFunc(older, compareWaiters)
	return older
}

// merge puts together what two replicas know of a waiter whose tries reach both.
func (w Waiter) merge(o Waiter) Waiter {
	if o.Last.After(w.Last) {
		w, o = o, w
	}
	if apart := w.Last.Sub(o.Last); apart > eager/4 {
		w.Every = min(w.Every, apart)
	}
	w.Ticket = min(w.Ticket, o.Ticket)
	if o.First.Before(w.First) {
		w.First = o.First
	}
	return w
}

func compareWaiters(a, b Waiter) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	default:
		return 0
	}
}

// prune forgets those that nobody asks for any more.
func (l *line) prune(now time.Time) {
	l.pruned = now
	for uid, w := range l.waiters {
		if w.gone(now) {
			delete(l.waiters, uid)
		}
	}
}
