package claim

import (
	"fmt"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// Snapshot is what one linearizable read of one cluster's store showed (R3):
// claims and availability of one moment.
type Snapshot struct {
	Cluster string
	// Invalid says why the snapshot must not be counted: unreachable, no
	// marker, undecodable. Empty for a valid one.
	Invalid string
	// Claims of the pod's namespace.
	Claims []Claim
	// Budgets by namespace/name. For an invalid snapshot: what was known
	// last, of which only the bounds are used (R4, B03).
	Budgets map[string]Report
	// Waiters by namespace/name of the budget, in a cached view only.
	Waiters map[string][]Waiter
	// Seen is when a cached view was last heard of; zero for a fresh read, or if it never was.
	Seen time.Time
}

// Report is what a cluster publishes about one budget.
type Report struct {
	// Service that the budget names; another service is another budget.
	Service  string
	Bounds   []budget.Bound
	Expected int
	// View is the set of clusters that take part, as the publisher sees it.
	View []string
	Pods []Pod
	// Undecided says why the cluster cannot answer for the budget; empty if it can.
	Undecided string
}

// Pod is the published state of one pod.
type Pod struct {
	UID string
	// Available: ready, not terminating, not contradicted by exported endpoints.
	Available bool
	// Unexported: available but for the exported endpoints; for people only.
	Unexported bool
	// Terminating: on its way out; for people only.
	Terminating bool
}

func (s Snapshot) claimIDs() map[string]bool {
	ids := make(map[string]bool, len(s.Claims))
	for _, c := range s.Claims {
		ids[c.ID] = true
	}
	return ids
}

// MaxTicket returns the largest ticket in the snapshots: the claimant's next
// one is larger, which makes tickets follow each other (fairness only).
func MaxTicket(snapshots []Snapshot) uint64 {
	var ticket uint64
	for _, s := range snapshots {
		for _, c := range s.Claims {
			ticket = max(ticket, c.Ticket)
		}
	}
	return ticket
}

// Question puts snapshots and claims together for one budget. A cluster in
// scope without a valid snapshot, or that was read but does not hold the
// budget, counts as not read (R4, protocol section 5, "Spec").
func Question(b Covering, pod, uid string, snapshots []Snapshot, claims map[string]budget.Claim) budget.Question {
	q := budget.Question{Budget: b.Name, Pod: pod, UID: uid}
	for _, name := range b.Clusters {
		c := budget.Cluster{Name: name, Unread: "never read"}
		if i := slices.IndexFunc(snapshots, func(s Snapshot) bool { return s.Cluster == name }); i >= 0 {
			c = cluster(b.Name, snapshots[i], claims)
		}
		if c.Unread != "" && len(c.Bounds) == 0 {
			c.Bounds = b.LastKnown[name]
		}
		q.Clusters = append(q.Clusters, c)
	}
	return q
}

func cluster(name string, s Snapshot, claims map[string]budget.Claim) budget.Cluster {
	r, known := s.Budgets[name]
	c := budget.Cluster{Name: s.Cluster, Unread: s.Invalid, Bounds: r.Bounds, Expected: r.Expected, View: r.View}
	switch {
	case c.Unread != "":
	case !known:
		c.Unread = fmt.Sprintf("holds no budget %s", name)
	case r.Undecided != "":
		c.Unread = r.Undecided
	}
	for _, p := range r.Pods {
		c.Pods = append(c.Pods, budget.Pod{UID: p.UID, Available: p.Available, Unexported: p.Unexported, Terminating: p.Terminating, Claim: claims[p.UID]})
	}
	return c
}

// Standing returns every claim of the snapshots by pod UID, granted or not, as
// a claim that is yet to be written would meet them: all go first. It serves
// refusals from a cached view and status, never a grant (R5).
func Standing(snapshots []Snapshot) map[string]budget.Claim {
	standing := map[string]budget.Claim{}
	for _, s := range snapshots {
		for _, c := range s.Claims {
			if c.State == Granted {
				standing[c.UID] = budget.Granted
			} else if _, ok := standing[c.UID]; !ok {
				standing[c.UID] = budget.PendingHigher
			}
		}
	}
	return standing
}
