package decide

import (
	"context"
	"fmt"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// awaitOther is the step of a request that waits for another one for the same
// pod, beside those of the protocol (claim.Step).
const awaitOther = "AwaitOther"

// attempt is a request for a pod that is being decided here.
type attempt struct {
	// ticket that it has kept, 0 if none.
	ticket uint64
	// waived: the budgets are not asked.
	waived bool
	// ended is closed once outcome stands.
	ended   chan struct{}
	outcome claim.Outcome
}

// claim notes an attempt until claimed is called, or returns the other one that
// is under way for the pod.
func (d *Decider) claim(r Request, ticket uint64) (mine, other *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other = d.claiming[r.UID]; other != nil {
		return nil, other
	}
	mine = &attempt{ticket: ticket, waived: r.Waived != "", ended: make(chan struct{})}
	d.claiming[r.UID] = mine
	return mine, nil
}

// claimed tells whoever waits for an attempt how it has ended.
func (d *Decider) claimed(uid string, mine *attempt, o claim.Outcome) {
	if mine == nil {
		return
	}
	d.mu.Lock()
	delete(d.claiming, uid)
	d.mu.Unlock()
	mine.outcome = o
	close(mine.ended)
}

// refuses waits for an attempt that another request for the same pod has made,
// which costs nothing, where a claim beside it would be refused (R8). If budget
// was wanting for the one, it is for the other; once it was granted, the ledger
// takes note that it was asked for again; and what could not be decided is tried again.
func (a *attempt) refuses(ctx context.Context, r Request) (claim.Outcome, bool) {
	select {
	case <-a.ended:
	case <-ctx.Done():
		return claim.Outcome{Undecidable: true, Sentence: fmt.Sprintf("another request to disrupt %s is being decided", r.Pod)}, true
	}
	// What goes whatever the budgets say is not refused by them.
	return a.outcome, !a.outcome.Allowed && !a.outcome.Undecidable && a.waived == (r.Waived != "")
}
