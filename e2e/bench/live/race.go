package live

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/stats"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// Race is what eager callers in all clusters got.
type Race struct {
	Took             time.Duration
	Granted, Refused int
	// GrantSeen and RefusalSeen are the times until an answer by the callers'
	// clock, with what the API server does before and after the webhook.
	GrantSeen, RefusalSeen stats.Distribution
	// Gap is the longest time that budget was free, somebody asked and nobody
	// was granted (history.Result.Idle).
	Gap time.Duration
	// Worst is the largest number of pods that were unavailable at one moment.
	Worst int
	// Busy is the share of the machine's cores that worked, for whomever.
	Busy float64
	// Answers and Steps are the controllers' own account; empty for native budgets.
	Answers Answers
	Steps   Steps
}

// PerSecond is how many evictions were granted in a second.
func (r Race) PerSecond() float64 { return float64(r.Granted) / r.Took.Seconds() }

// race lets eager callers loose in every cluster.
func (m *mesh) race(ctx context.Context, w *scenario.Workload) (Race, error) {
	account, err := m.open(ctx, w.Namespace)
	if err != nil {
		return Race{}, err
	}
	witness, err := w.Watch(ctx)
	if err != nil {
		return Race{}, err
	}
	before, err := readProcessor()
	if err != nil {
		_, stopped := witness.Stop()
		return Race{}, errors.Join(err, stopped)
	}
	tally := scenario.NewTally()
	// Not a deadline: client-go's rate limiter would fail the last requests ahead of it.
	racing, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(m.options.Duration, cancel)
	start := time.Now()
	w.EvictEagerly(racing, Callers, Pause, tally)
	r := Race{Took: time.Since(start), Granted: tally.Granted(), Refused: tally.Refused()}
	timer.Stop()
	cancel()
	after, err := readProcessor()
	testimony, stopped := witness.Stop()
	if err := errors.Join(err, stopped, ctx.Err()); err != nil {
		return Race{}, err
	}
	r.Busy = after.since(before)
	if failures := tally.Failures(); len(failures) > 0 {
		return Race{}, fmt.Errorf("evict pods: %d answers are neither permission nor refusal, the first: %w", len(failures), failures[0])
	}
	if r.Granted == 0 {
		return Race{}, errors.New("evict pods: none was granted, which measures nothing")
	}
	requests := tally.Requests()
	r.GrantSeen, r.RefusalSeen = seen(requests, history.Allowed), seen(requests, history.Refused)
	if r.Gap, err = gap(witness, tally); err != nil {
		return Race{}, err
	}
	r.Worst = testimony.WorstUnavailable
	r.Answers, r.Steps, err = account.close(ctx)
	return r, err
}

// gap is the longest time that budget lay idle. The verdict is not asked for: native budgets may break the bound.
func gap(witness *scenario.Witness, tally *scenario.Tally) (time.Duration, error) {
	h, err := witness.History(history.Bound{MaxUnavailable: strconv.Itoa(Budget)}, tally)
	if err != nil {
		return 0, err
	}
	report, err := scenario.Judge(h)
	if err != nil {
		return 0, err
	}
	return report.Budgets[0].Idle.Length(), nil
}

func seen(requests []scenario.Request, answer history.Answer) stats.Distribution {
	var took []time.Duration
	for _, r := range requests {
		if r.Answer == answer {
			took = append(took, r.Took())
		}
	}
	return stats.Of(took)
}
