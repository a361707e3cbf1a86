package decide

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// tellInterval is how often at most the mesh is told of who waits for a
// budget, however often it was refused; tellDelay lets tries that come
// together be told together.
const (
	tellInterval = time.Second
	tellDelay    = 100 * time.Millisecond
)

// telling is what is under way to tell the mesh of who waits for a budget.
type telling struct {
	// again: somebody was refused or served since.
	again bool
	// shown: the mesh was told of somebody.
	shown bool
	busy  bool
}

// ticket returns the place of a request: that of its first refusal here or, as
// far as the own cluster has told of it, at another replica; 0 if there is none. It needs d.mu.
func (d *Decider) ticket(r Request, snapshots []claim.Snapshot) uint64 {
	var place uint64
	older := func(ticket uint64) {
		if ticket > 0 && (place == 0 || ticket < place) {
			place = ticket
		}
	}
	for _, b := range r.Budgets {
		older(d.turns.Place(b.Name, r.UID))
		for _, s := range snapshots {
			// A peer has no say in where our pods stand.
			if s.Cluster != d.config.Cluster {
				continue
			}
			for _, w := range s.Waiters[b.Name] {
				if w.UID == r.UID {
					older(w.Ticket)
				}
			}
		}
	}
	return place
}

// nextTicket is what a pod draws that is refused for the first time: it stands
// behind everything that is known. It needs d.mu.
func (d *Decider) nextTicket(r Request, snapshots []claim.Snapshot) uint64 {
	ticket := max(d.seen[r.Namespace], claim.MaxTicket(snapshots), d.config.Ledger.Ticket(r.Namespace))
	for _, s := range snapshots {
		for _, waiters := range s.Waiters {
			for _, w := range waiters {
				ticket = max(ticket, w.Ticket)
			}
		}
	}
	return min(ticket+1, claim.LastTicket)
}

// keptTicket returns the place of a request that is about to claim, 0 if it has none.
func (d *Decider) keptTicket(r Request) uint64 {
	own := []claim.Snapshot{d.config.Clusters.Cached(d.config.Cluster, r.query())}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ticket(r, own)
}

// givesWay reports whether a request that the cached view would let try leaves
// the free budget to pods that have waited longer, as far as any of its
// budgets is that short.
func (d *Decider) givesWay(r Request, judged []claim.Outcome, snapshots []claim.Snapshot, standing map[string]budget.Claim) (claim.Outcome, bool) {
	now := time.Now()
	waits := waiting(snapshots, standing)
	d.mu.Lock()
	defer d.mu.Unlock()
	me := claim.Waiter{Cluster: d.config.Cluster, UID: r.UID, Ticket: d.ticket(r, snapshots)}
	if me.Ticket == 0 {
		me.Ticket = d.nextTicket(r, snapshots)
	}
	// One hold for all budgets of the request: they do not add up.
	since := d.turns.Held(names(r.Budgets), now)
	for _, o := range judged {
		if o.Decision.Cost == 0 {
			// Its going takes nothing that anybody could wait for.
			continue
		}
		first, yields := d.turns.Yield(claim.Ask{
			Budget: o.Budget, Me: me, Free: o.Decision.Left - o.Decision.Desired + o.Decision.Cost,
			Since: since, Told: told(o.Budget, snapshots), Waits: waits,
		}, now)
		if !yields {
			continue
		}
		if !r.DryRun {
			d.turns.Hold(o.Budget, since)
		}
		o.GaveWay = true
		o.Sentence = fmt.Sprintf("evicting %s "+claim.GivesWay+" %s in cluster %s, which has waited longer for budget %s to have %d of %d pods available and is about to be asked for again",
			r.Pod, first.Pod, first.Cluster, o.Budget, o.Decision.Desired+1, o.Decision.Expected)
		return o, true
	}
	return claim.Outcome{}, false
}

// told returns the waiters for a budget that clusters which can be read told of.
func told(name string, snapshots []claim.Snapshot) []claim.Waiter {
	var all []claim.Waiter
	for _, s := range snapshots {
		if s.Invalid == "" {
			all = append(all, s.Waiters[name]...)
		}
	}
	return all
}

// waiting returns whether a pod is available and unclaimed, by the cached view.
func waiting(snapshots []claim.Snapshot, standing map[string]budget.Claim) func(uid string) bool {
	var available map[string]bool
	return func(uid string) bool {
		if available == nil {
			available = map[string]bool{}
			for _, s := range snapshots {
				for _, report := range s.Budgets {
					for _, p := range report.Pods {
						available[p.UID] = available[p.UID] || p.Available
					}
				}
			}
		}
		return available[uid] && standing[uid] == budget.Unclaimed
	}
}

// served tells the turns of a grant.
func (d *Decider) served(r Request, o claim.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range r.Budgets {
		d.turns.Served(b.Name, r.UID, b.Name == o.Budget && !o.Waived && o.Decision.Left <= o.Decision.Desired)
		if t := d.telling[b.Name]; t != nil && t.shown {
			d.tellSoon(r.Namespace, b.Name)
		}
	}
}

// refused tells the turns of a try in vain, and the mesh of those who wait long.
// spent: the budget has nothing free, for sure.
func (d *Decider) refused(r Request, o claim.Outcome, snapshots []claim.Snapshot, spent bool) {
	wanting := o.GaveWay || o.Decision.Verdict == budget.Deny && o.Decision.Reason == budget.Insufficient
	if !wanting || r.DryRun {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if spent && !o.GaveWay {
		d.turns.Spent(o.Budget)
	}
	w := claim.Waiter{Cluster: d.config.Cluster, UID: r.UID, Pod: r.Pod, Ticket: d.ticket(r, snapshots)}
	if w.Ticket == 0 {
		w.Ticket = d.nextTicket(r, snapshots)
	}
	if long := d.turns.Refused(o.Budget, w, time.Now()); long {
		d.tellSoon(r.Namespace, o.Budget)
	}
}

// tellSoon has the mesh told of who waits for a budget. It needs d.mu.
func (d *Decider) tellSoon(namespace, name string) {
	t := d.telling[name]
	if t == nil {
		t = &telling{}
		d.telling[name] = t
	}
	t.again = true
	if t.busy || d.closed {
		return
	}
	t.busy = true
	d.background.Go(func() { d.tell(namespace, name) })
}

// tell tells the mesh of who waits for a budget, and once more after a pause
// for as long as somebody is refused or served meanwhile.
func (d *Decider) tell(namespace, name string) {
	for more := true; more; {
		if !pause(d.ending, tellDelay) {
			return
		}
		d.mu.Lock()
		t := d.telling[name]
		t.again = false
		waiters := d.turns.Waiting(name, time.Now())
		t.shown = len(waiters) > 0
		d.mu.Unlock()
		d.tellNow(namespace, name, waiters)
		more = pause(d.ending, tellInterval)
		d.mu.Lock()
		if more = more && t.again; !more {
			t.busy = false
			if !t.shown {
				delete(d.telling, name)
			}
		}
		d.mu.Unlock()
	}
}

// tellNow writes to every instance that is registered now: those that were known
// last may be gone. What fails is told again at the next try.
func (d *Decider) tellNow(namespace, name string, waiters []claim.Waiter) {
	ctx, cancel := context.WithTimeout(d.ending, d.config.ReadTimeout)
	defer cancel()
	instances, err := d.registered(ctx)
	if err != nil {
		return
	}
	d.each(ctx, instances, func(ctx context.Context, instance string) error {
		return d.config.Own.WriteWaiters(ctx, instance, namespace, strings.TrimPrefix(name, namespace+"/"), d.config.Replica, waiters)
	})
}

// pause reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
