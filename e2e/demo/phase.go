package main

import (
	"context"
	"sync"
	"time"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// How often the table is shown.
const (
	redrawInterval = 500 * time.Millisecond
	printInterval  = 5 * time.Second
)

// phase is a maintenance that goes on.
type phase struct {
	workload *scenario.Workload
	witness  *scenario.Witness
	tally    *scenario.Tally
	allowed  int
	began    time.Time

	// Set by the work that show waits for.
	drainErr, recoverErr error
	took                 time.Duration

	mu    sync.Mutex
	nodes map[string]string // worked on, by cluster; "" once all are done
}

// workOn is a scenario.Maintenance's Progress.
func (p *phase) workOn(cluster, node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[cluster] = node
}

// show does the work and shows the table until it is done. If ctx ends before,
// so does show: kubectl's code sleeps between two requests whatever happens.
func (p *phase) show(ctx context.Context, s *screen, work func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	interval := printInterval
	if s.terminal {
		interval = redrawInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	s.begin()
	for {
		select {
		case <-done:
			s.draw(p.frame())
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			s.draw(p.frame())
		}
	}
}

// frame is the present moment.
func (p *phase) frame() frame {
	available := p.witness.Now()
	f := frame{
		elapsed: time.Since(p.began), allowed: p.allowed, worst: p.witness.SoFar().WorstUnavailable,
		granted: p.tally.Granted(), refused: p.tally.Refused(), refusal: p.tally.LastRefusal(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.workload.Clusters {
		node, begun := p.nodes[c.Name]
		if begun && node == "" {
			node = "done"
		}
		f.rows = append(f.rows, row{
			cluster: c.Name, available: available[c.Name], expected: int(p.workload.Replicas),
			node: node, decisions: lastOf(p.tally.Last(c.Name), decisionsShown),
		})
	}
	return f
}

// lastOf is the end of a slice, at most n long.
func lastOf[T any](all []T, n int) []T { return all[max(0, len(all)-n):] }
