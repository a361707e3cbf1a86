package decide

import (
	"context"
	"fmt"
	"slices"
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

// place returns the ticket of a pod that was refused before, 0 for another.
func (d *Decider) place(r Request) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range r.Budgets {
		if ticket := d.turns.Place(b.Name, r.UID); ticket > 0 {
			return ticket
		}
	}
	return 0
}

// givesWay reports whether a request that the cached view would let try leaves
// the free budget to pods that have waited longer, as far as any of its
// budgets is that short.
func (d *Decider) givesWay(r Request, judged []claim.Outcome, snapshots []claim.Snapshot, standing map[string]budget.Claim) (claim.Outcome, bool) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range judged {
		me := claim.Waiter{Cluster: d.config.Cluster, UID: r.UID, Ticket: d.turns.Place(o.Budget, r.UID)}
		if me.Ticket == 0 {
			me.Ticket = d.nextTicket(snapshots)
		}
		others := waiters(o.Budget, snapshots, standing)
		free := o.Decision.Left - o.Decision.Desired + 1
		if first, yes := d.turns.Yield(o.Budget, me, free, others, now); yes {
			o.GaveWay = true
			o.Sentence = fmt.Sprintf("evicting %s gives way to %s in cluster %s, which has waited longer for budget %s to have %d of %d pods available and is about to be asked for again",
				r.Pod, first.Pod, first.Cluster, o.Budget, o.Decision.Desired+1, o.Decision.Expected)
			return o, true
		}
	}
	return claim.Outcome{}, false
}

// waiters returns those who wait for a budget with pods that are available
// and unclaimed: nobody gives way to one that is being served.
func waiters(name string, snapshots []claim.Snapshot, standing map[string]budget.Claim) []claim.Waiter {
	var all []claim.Waiter
	for _, s := range snapshots {
		waiting := s.Waiters[name]
		if len(waiting) == 0 || s.Invalid != "" {
			continue
		}
		pods := s.Budgets[name].Pods
		for _, w := range waiting {
			available := slices.ContainsFunc(pods, func(p claim.Pod) bool { return p.UID == w.UID && p.Available })
			if available && standing[w.UID] == budget.Unclaimed {
				all = append(all, w)
			}
		}
	}
	return all
}

func (d *Decider) nextTicket(snapshots []claim.Snapshot) uint64 {
	return max(d.ticket.Load(), claim.MaxTicket(snapshots)) + 1
}

// served tells the turns of a grant.
func (d *Decider) served(r Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range r.Budgets {
		d.turns.Served(b.Name, r.UID)
	}
}

// refused tells the turns of a try in vain, and the mesh of those who wait long.
func (d *Decider) refused(r Request, o claim.Outcome, snapshots []claim.Snapshot) {
	if o.Budget == "" || r.DryRun {
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !o.GaveWay {
		d.turns.Spent(o.Budget)
	}
	w := claim.Waiter{Cluster: d.config.Cluster, UID: r.UID, Pod: r.Pod, Ticket: d.nextTicket(snapshots)}
	for _, s := range snapshots {
		for _, told := range s.Waiters[o.Budget] {
			if told.UID == r.UID {
				// It has been refused by another replica before.
				w.Ticket = min(w.Ticket, told.Ticket)
			}
		}
	}
	if long := d.turns.Refused(o.Budget, w, now); !long || d.telling[o.Budget] || d.closed {
		return
	}
	d.telling[o.Budget] = true
	d.background.Go(func() { d.tell(r.Namespace, o.Budget) })
}

// tell tells the mesh of who waits for a budget now, and then keeps quiet for
// a while. The next refusal begins it anew.
func (d *Decider) tell(namespace, name string) {
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.telling, name)
	}()
	if !pause(d.ending, tellDelay) {
		return
	}
	d.mu.Lock()
	waiting := d.turns.Waiting(name, time.Now())
	d.mu.Unlock()
	known := d.known.Load()
	if known == nil {
		instances, err := d.registered(d.ending)
		if err != nil {
			return
		}
		known = &instances
	}
	d.each(d.ending, *known, func(ctx context.Context, instance string) error {
		return d.config.Own.WriteWaiters(ctx, instance, namespace, strings.TrimPrefix(name, namespace+"/"), d.config.Replica, waiting)
	})
	pause(d.ending, tellInterval)
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

// ages are the steps in which the age of a view is told: a sentence that
// changes with every try would be a new Event each time.
var ages = []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute}

// age says how old the cached views are that a refusal rests on, at most.
func age(snapshots []claim.Snapshot, now time.Time) string {
	var oldest time.Duration
	read := false
	for _, s := range snapshots {
		if s.Invalid == "" && !s.Seen.IsZero() {
			read, oldest = true, max(oldest, now.Sub(s.Seen))
		}
	}
	if !read {
		return ""
	}
	for _, step := range ages {
		if oldest <= step {
			return fmt.Sprintf(", by a view at most %s old", step)
		}
	}
	return fmt.Sprintf(", by a view %s old", oldest.Round(time.Minute))
}
