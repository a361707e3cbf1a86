package decide

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// readClaimed is readAll, with the own view taken from the durable budgets
// instead of from one of several own instances: another instance may have
// shown a newer view to somebody who was granted by it (R4, V04). Both are
// read after the claim was written, at the same time.
func (d *Decider) readClaimed(ctx context.Context, clusters []string, r Request) []claim.Snapshot {
	var scopes sync.WaitGroup
	views := make([][]string, len(r.Budgets))
	failures := make([]error, len(r.Budgets))
	readCtx, cancel := context.WithTimeout(ctx, d.config.ReadTimeout)
	defer cancel()
	for i, b := range r.Budgets {
		scopes.Go(func() {
			views[i], failures[i] = d.shared.scopes.Call(readCtx, b.Name, r.Namespace)
		})
	}
	snapshots := d.readAll(ctx, clusters, r.query())
	scopes.Wait()
	for at, s := range snapshots {
		if s.Cluster != d.config.Cluster {
			continue
		}
		// Others share this snapshot.
		s.Budgets = maps.Clone(s.Budgets)
		snapshots[at] = s
		for i, b := range r.Budgets {
			report, ok := s.Budgets[b.Name]
			if !ok {
				continue
			}
			report.View = views[i]
			switch {
			case failures[i] != nil:
				report.Undecided = fmt.Sprintf("budget could not be read: %v", failures[i])
			case !slices.Equal(views[i], slices.Sorted(slices.Values(b.Clusters))):
				// Also under an absolute bound: what was left out may state a tighter one (B03).
				report.Undecided = "the clusters that take part have just changed"
			}
			s.Budgets[b.Name] = report
		}
	}
	return snapshots
}

// readAll is one parallel round of reads (R3). A cluster that does not answer
// in time is an invalid snapshot. The read itself is bounded by ReadTimeout.
func (d *Decider) readAll(ctx context.Context, clusters []string, q Query) []claim.Snapshot {
	snapshots := make([]claim.Snapshot, len(clusters))
	var reads sync.WaitGroup
	for i, c := range clusters {
		reads.Go(func() {
			ctx, end := d.trace(ctx, "ReadCluster", c)
			s, err := d.shared.reads.Call(ctx, store{cluster: c, namespace: q.Namespace}, q)
			if err != nil {
				// What the cluster stated last still binds (B03).
				s = d.config.Clusters.Cached(c, q)
				s.Invalid = err.Error()
			}
			if ctx.Err() != nil {
				s.Invalid = "its kvstore does not answer in time"
			}
			snapshots[i] = s
			end(s.Invalid)
		})
	}
	reads.Wait()
	return snapshots
}

// each writes to all instances at once and returns those that acknowledged.
func (d *Decider) each(ctx context.Context, instances []string, write func(context.Context, string) error) []string {
	ctx, cancel := context.WithTimeout(ctx, d.config.ReadTimeout)
	defer cancel()
	var mu sync.Mutex
	var acknowledged []string
	var writes sync.WaitGroup
	for _, i := range instances {
		writes.Go(func() {
			if write(ctx, i) == nil {
				mu.Lock()
				defer mu.Unlock()
				acknowledged = append(acknowledged, i)
			}
		})
	}
	writes.Wait()
	return acknowledged
}

// awaitChange waits for any view to change, but not for long: changes of
// Cilium's endpoints are not watched.
func (d *Decider) awaitChange(ctx context.Context) {
	const poll = 100 * time.Millisecond
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.config.Clusters.Changes():
	case <-timer.C:
	}
}
