package simulation

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// Result of a run.
type Result struct {
	Stats
	// Digest is of everything that happened: two runs of one scenario have the same.
	Digest uint64
	// History of the run, as far as it went.
	History history.History
	// Err is the first thing that must not be; nil if there was none.
	Err error
}

// Options of a run.
type Options struct {
	// Told, if not nil, receives every step in words.
	Told func(line string)
	// Break, if not nil, replaces what a process is joined by.
	Break Breakage
}

// Run lets a scenario run to its end, or to the first violation.
func Run(t *testing.T, s Scenario, o Options) (result Result) {
	synctest.Test(t, func(*testing.T) {
		w := newWorld(s)
		w.told = o.Told
		if o.Break != nil {
			w.broken = func(p *process) seams { return o.Break(p, p.seams()) }
		}
		w.begin()
		w.run(warmUp+s.Length, w.failed)
		if s.Rests && !w.failed() {
			w.rest()
		}
		w.stop()
		w.stats.Runs, w.stats.Steps = 1, w.steps
		result = Result{Stats: w.stats, Digest: w.digest, Err: w.witness.err}
		if told, err := w.history.History(); err != nil {
			result.Err = errors.Join(result.Err, err)
		} else {
			result.History = told
		}
	})
	// While clusters disagree on who takes part, there is no one budget to judge by.
	if result.Err == nil && !s.Joins {
		result.Err = judge(result.History)
	}
	return result
}

// rest ends all that goes wrong. What is left of claims must go, once the API
// server can no longer act on any of them.
func (w *world) rest() {
	w.quiet = true
	w.run(w.now()+claim.GrantTimeout+claim.PendingTimeout+2*time.Minute, w.failed)
	w.stats.Rested = 1
	for _, c := range w.clusters {
		if l, ok := c.api.objects["ledger/"+namespace].(*v1alpha1.DisruptionLedger); ok && len(l.Claims) > 0 {
			w.witness.fail("%s still holds %d claims after a long rest: %+v", c.name, len(l.Claims), l.Claims)
		}
		for _, i := range c.instances {
			if i.up {
				if left := i.claims(); len(left) > 0 {
					w.witness.fail("%s still shows %s after a long rest", i.name, fmt.Sprint(left))
				}
			}
		}
	}
}

// stop ends all processes, and waits for their goroutines.
func (w *world) stop() {
	w.quiet = true
	for _, c := range w.clusters {
		for len(c.processes) > 0 {
			c.processes[0].kill()
		}
	}
}
