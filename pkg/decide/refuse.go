package decide

import (
	"fmt"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Refuse denies what the cached view already denies, without a write or a
// network call (R5). It never allows.
func (d *Decider) Refuse(r Request) (claim.Outcome, bool) {
	query := r.query()
	clusters := r.clusters(d.config.Cluster)
	snapshots := make([]claim.Snapshot, 0, len(clusters))
	for _, c := range clusters {
		snapshots = append(snapshots, d.config.Clusters.Cached(c, query))
	}
	for _, s := range snapshots {
		if slices.ContainsFunc(s.Claims, func(c claim.Claim) bool { return c.UID == r.UID }) {
			// Claimed already: the ledger tells whether it is a repetition (R8).
			return claim.Outcome{}, false
		}
	}
	standing, guessed := d.standing(r, snapshots)
	judged := judgeEach(r, snapshots, standing)
	o := worst(judged)
	switch {
	case o.Decision.Verdict == budget.Deny:
		if !d.settled(o) {
			return claim.Outcome{}, false
		}
	default:
		var yields bool
		if o, yields = d.givesWay(r, judged, snapshots, standing); !yields {
			return claim.Outcome{}, false
		}
	}
	o.Cached = true
	d.refused(r, o, snapshots, !guessed)
	o.Sentence += age(snapshots, time.Now())
	return o, true
}

// standing returns the claims that go before one that is yet to be written: those
// of the cached view, and those that this replica is about to write. The view
// shows them a few milliseconds later, in which others would claim in vain. A
// request whose pod has waited is not stopped by an attempt that came after it.
func (d *Decider) standing(r Request, snapshots []claim.Snapshot) (standing map[string]budget.Claim, guessed bool) {
	standing = claim.Standing(snapshots)
	d.mu.Lock()
	defer d.mu.Unlock()
	mine := d.ticket(r, snapshots)
	for uid, ticket := range d.claiming {
		younger := mine > 0 && (ticket == 0 || ticket > mine)
		if standing[uid] == budget.Unclaimed && !younger {
			standing[uid], guessed = budget.PendingHigher, true
		}
	}
	return standing, guessed
}

// settled reports whether a denial may be given without a look: for want of
// budget always; for want of knowledge once that has lasted, so that the
// moment in which a peer's publisher hands over refuses nobody.
func (d *Decider) settled(o claim.Outcome) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !o.Undecidable {
		delete(d.undecidable, o.Budget)
		return true
	}
	since, known := d.undecidable[o.Budget]
	if !known || time.Since(since.last) > 2*d.config.Patience {
		since.first = time.Now()
	}
	since.last = time.Now()
	d.undecidable[o.Budget] = since
	return time.Since(since.first) >= d.config.Patience
}

// spell is how long a budget has been undecidable, as far as anybody asked.
type spell struct{ first, last time.Time }

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
