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
	// memory is how long a try is remembered at least: who asks once a minute is a waiter as well.
	memory = 2 * time.Minute
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

// victim reports whether the waiter has waited so long that its rhythm may be
// to blame. Two tries that failed to come end that: it has given up.
func (w Waiter) victim(now time.Time) bool {
	return now.Sub(w.First) >= veryLongWait && now.Sub(w.Last) <= 2*w.Every+eager
}

// forgotten reports whether it may be forgotten that the pod was ever asked for.
func (w Waiter) forgotten(now time.Time) bool { return now.Sub(w.Last) > max(3*w.Every, memory) }

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
	swept  time.Time
}

// line is what is known of one budget.
type line struct {
	waiters map[string]*Waiter
	// held is since when free budget is kept; zero if it is not.
	held time.Time
	// pause is for how long the next hold is for victims of their rhythm.
	pause time.Duration
}

// NewTurns returns empty Turns. random returns a number in [0, 1).
func NewTurns(random func() float64) *Turns {
	return &Turns{random: random, lines: map[string]*line{}}
}

func (t *Turns) line(budget string) *line {
	l := t.lines[budget]
	if l == nil {
		l = &line{waiters: map[string]*Waiter{}, pause: t.pause()}
		t.lines[budget] = l
	}
	return l
}

func (t *Turns) pause() time.Duration { return time.Duration(t.random() * float64(Hold)) }

// Place returns the ticket of a pod that has been refused before, 0 for another.
func (t *Turns) Place(budget, uid string) uint64 {
	if l := t.lines[budget]; l != nil && l.waiters[uid] != nil {
		return l.waiters[uid].Ticket
	}
	return 0
}

// Refused tells of a try that was refused for want of budget, and returns whether the pod has
// waited long. The waiter's Ticket is used if it is its first try.
func (t *Turns) Refused(budget string, w Waiter, now time.Time) (long bool) {
	t.sweep(now)
	l := t.line(budget)
	old := l.waiters[w.UID]
	if old == nil {
		w.First, w.Last, w.Every = now, now, 0
		l.waiters[w.UID] = &w
		return false
	}
	old.Every, old.Last = now.Sub(old.Last), now
	return now.Sub(old.First) >= LongWait
}

// sweep forgets, once in a while, who has given up.
func (t *Turns) sweep(now time.Time) {
	if now.Sub(t.swept) < memory/4 {
		return
	}
	t.swept = now
	for name, l := range t.lines {
		for uid, w := range l.waiters {
			if w.forgotten(now) {
				delete(l.waiters, uid)
			}
		}
		if len(l.waiters) == 0 && now.Sub(l.held) > memory {
			delete(t.lines, name)
		}
	}
}

// Served forgets a pod whose disruption was granted. last: there is nothing
// free any more, so the next hold begins anew.
func (t *Turns) Served(budget, uid string, last bool) {
	l := t.lines[budget]
	if l == nil {
		return
	}
	delete(l.waiters, uid)
	if last {
		t.Spent(budget)
	}
}

// Spent tells that a budget has nothing free: the next hold begins anew.
func (t *Turns) Spent(budget string) {
	if l := t.lines[budget]; l != nil && !l.held.IsZero() {
		l.held, l.pause = time.Time{}, t.pause()
	}
}

// Held returns since when free budget of any of the budgets is kept; now if none is.
func (t *Turns) Held(budgets []string, now time.Time) time.Time {
	since := now
	for _, name := range budgets {
		if l := t.lines[name]; l != nil && !l.held.IsZero() && l.held.Before(since) {
			since = l.held
		}
	}
	return since
}

// Hold tells that free budget is kept since then, because somebody gave way.
func (t *Turns) Hold(budget string, since time.Time) {
	if l := t.line(budget); l.held.IsZero() {
		l.held = since
	}
}

// Waiting returns the oldest of those who have waited long for a budget and
// still ask, to tell the mesh of them.
func (t *Turns) Waiting(budget string, now time.Time) []Waiter {
	l := t.lines[budget]
	if l == nil {
		return nil
	}
	var all []Waiter
	for _, w := range l.waiters {
		if now.Sub(w.First) >= LongWait && now.Sub(w.Last) <= 2*w.Every+eager {
			all = append(all, *w)
		}
	}
	slices.SortFunc(all, compareWaiters)
	return all[:min(len(all), maxNoted)]
}

// GivesWay stands in the sentence of a request that found budget free and leaves it to an older waiter.
const GivesWay = "gives way to"

// Ask is a request that finds budget free.
type Ask struct {
	Budget string
	// Me is the request, with the ticket that its pod has or would draw.
	Me Waiter
	// Free is how many disruptions the budget has free, this one included.
	Free int
	// Since is from when on budget is kept, by Held.
	Since time.Time
	// Told are the waiters that the mesh has told of.
	Told []Waiter
	// Waits reports whether a waiter's pod is available and unclaimed: nobody
	// gives way to one that is being served.
	Waits func(uid string) bool
}

// Yield reports whether a request gives way, and to whom: at least as many
// older waiters are about to ask as there are disruptions free. Tell Hold then.
func (t *Turns) Yield(a Ask, now time.Time) (Waiter, bool) {
	limit := a.Since.Add(Hold)
	if !now.Before(limit) {
		return Waiter{}, false
	}
	var pause time.Duration
	var own map[string]*Waiter
	if l := t.lines[a.Budget]; l != nil {
		own, pause = l.waiters, l.pause
	}
	var awaited []Waiter
	for _, w := range known(own, a.Told) {
		older := w.UID != a.Me.UID && w.before(a.Me) && now.Sub(w.First) >= LongWait && w.Every > 0
		if !older || !w.comes(now, limit) && !(w.victim(now) && now.Before(a.Since.Add(pause))) {
			continue
		}
		if a.Waits(w.UID) {
			awaited = append(awaited, w)
		}
	}
	if len(awaited) == 0 || len(awaited) < a.Free {
		return Waiter{}, false
	}
	return slices.MinFunc(awaited, compareWaiters), true
}

// known puts together what this replica knows of waiters and what it was told.
func known(own map[string]*Waiter, told []Waiter) map[string]Waiter {
	all := make(map[string]Waiter, len(own)+len(told))
	for uid, w := range own {
		all[uid] = *w
	}
	for _, w := range told {
		if old, both := all[w.UID]; both {
			w = w.merge(old)
		}
		all[w.UID] = w
	}
	return all
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
