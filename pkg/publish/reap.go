package publish

import (
	"context"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Reap withdraws claims that nobody decided (R7), until ctx ends. It runs on
// every replica, leader or not: when the one that died was the leader, its claims
// have grown old by the time that there is another.
func (p *Publisher) Reap(ctx context.Context) {
	t := tidier{Publisher: p}
	reaper := claim.NewReaper(claim.PendingTimeout, claim.GrantTimeout)
	// Between the looks of a publisher that runs from the same moment on.
	if !wait(ctx, tidyInterval/2) {
		return
	}
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// From the informer, which costs nothing.
		if claims, err := p.config.Workload.Claims(ctx); err == nil {
			withdraw, _ := reaper.Observe(claims, time.Now())
			t.end(ctx, withdraw, "withdrew a claim that nobody decided", p.config.Ledger.Withdraw)
		}
	}
}
