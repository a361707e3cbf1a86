package simulation

import (
	"fmt"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// publicationLag is how long at most a decision of the simulation may rest on a
// pod that has failed since, or on a budget that was changed since: a leader
// is lost, another one elected, and its instances restored.
const publicationLag = 30 * time.Second

// record tells a history, for a checker that knows nothing of the protocol,
// what happened to a pod under each budget that covers it.
func (w *world) record(p *pod, kind history.Kind) {
	for b := range w.Budgets {
		if p.covered(b) {
			w.history.Record(history.Event{
				Interval: history.At(w.now()), Kind: kind, Budget: fullName(b), Cluster: p.cluster.name, Pod: p.uid, Name: p.name,
			})
		}
	}
}

// recordSpec tells what a cluster states.
func (w *world) recordSpec(c *cluster, s *spec) {
	statement := &history.Statement{Expected: w.expected(s.index)}
	amount := fmt.Sprint(s.bound.Value)
	if s.bound.Percent {
		amount += "%"
	}
	if s.bound.Kind == budget.MinAvailable {
		statement.MinAvailable = amount
	} else {
		statement.MaxUnavailable = amount
	}
	w.history.Record(history.Event{
		Interval: history.At(w.now()), Kind: history.Budget, Budget: fullName(s.index), Cluster: c.name, Statement: statement,
	})
}

// recordAsked tells a question, and how to tell its answer.
func (w *world) recordAsked(r *request) (answered func(history.Answer)) {
	var tell []func(history.Interval, history.Answer)
	for b := range w.Budgets {
		if r.pod.covered(b) {
			tell = append(tell, w.history.Ask(history.Event{
				Interval: history.At(w.now()), Budget: fullName(b), Cluster: r.pod.cluster.name, Pod: r.pod.uid, Name: r.pod.name, Caller: r.name,
			}))
		}
	}
	return func(a history.Answer) {
		for _, t := range tell {
			t(history.At(w.now()), a)
		}
	}
}

// judge lets the checker judge a finished run. It uses the real clock.
func judge(h history.History) error {
	report, err := history.Check(h, history.Options{Lag: publicationLag, Validity: claim.GrantTimeout})
	if err != nil {
		return fmt.Errorf("the history contradicts itself: %w", err)
	}
	if report.Verdict() != history.Held {
		return fmt.Errorf("judged by its history: %s", report)
	}
	return nil
}
