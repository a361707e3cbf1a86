package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meshpdb/meshpdb/pkg/history"
)

const (
	// Slack is how late a watch event, or a line of kubectl, may come. Several API servers
	// share no order of their events, but one machine's clock: what is told now happened up to so long ago.
	Slack = time.Second
	// Lag is how old the view of another cluster may be that a decision rests
	// on: what a dead publisher showed stands for its lease of 15 s, and a decision takes up to 5 s.
	Lag = 20 * time.Second
)

// Request is one eviction that was asked for, by the caller's clock.
type Request struct {
	Cluster string
	// Pod by its name, which is what an eviction asks for.
	Pod string
	// Answered is when the answer came, or when nobody waited for it any longer.
	Asked, Answered time.Time
	Answer          history.Answer
	// Sentence of a refusal.
	Sentence string
}

// Took is the time from the question to the answer.
func (r Request) Took() time.Duration { return r.Answered.Sub(r.Asked) }

// answerTo says what an API server's answer means for the pod. An answer
// that is neither permission nor refusal may have come after a permission.
func answerTo(err error) history.Answer {
	switch {
	case err == nil:
		return history.Allowed
	case apierrors.IsTooManyRequests(err):
		return history.Refused
	case apierrors.IsNotFound(err):
		return history.Failed
	default:
		return history.Unknown
	}
}

// Requests returns every request that was recorded, in the order of their answers.
func (t *Tally) Requests() []Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.requests)
}

// Add takes in requests of somebody else. They do not count as granted or refused.
func (t *Tally) Add(requests ...Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, requests...)
}

// Abandon takes in a request whose answer nobody waits for any longer.
func (t *Tally) Abandon(cluster, pod string, asked time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, Request{Cluster: cluster, Pod: pod, Asked: asked, Answered: time.Now(), Answer: history.Unknown})
}

// RecordDrain takes in what kubectl drain asked and was answered, from the lines that it wrote.
// They do not count as granted or refused.
func (t *Tally) RecordDrain(cluster string, lines []DrainLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := map[string]Request{}
	last := time.Time{}
	for _, line := range lines {
		last = line.At
		pod, answer := drainAnswer(line.Text)
		r, asked := open[pod]
		switch {
		case answer == "" && pod != "" && !asked:
			open[pod] = Request{Cluster: cluster, Pod: pod, Asked: line.At.Add(-Slack)}
		case answer != "" && asked:
			r.Answered, r.Answer = line.At, answer
			t.requests = append(t.requests, r)
			delete(open, pod)
		}
	}
	for _, r := range open {
		r.Answered, r.Answer = last, history.Unknown
		t.requests = append(t.requests, r)
	}
}

// drainAnswer reads a line of kubectl drain: which pod it is about, and the
// answer, "" if it begins to ask. Other lines are about no pod.
func drainAnswer(line string) (pod string, answer history.Answer) {
	if name, ok := strings.CutPrefix(line, "evicting pod "); ok {
		_, pod, _ = strings.Cut(name, "/")
		return pod, ""
	}
	if _, rest, ok := strings.Cut(line, `error when evicting pods/"`); ok {
		pod, rest, _ = strings.Cut(rest, `"`)
		if strings.Contains(rest, "will retry after") {
			return pod, history.Refused
		}
		return pod, history.Unknown
	}
	if name, ok := strings.CutPrefix(line, "pod/"); ok && strings.HasSuffix(name, " evicted") {
		return strings.TrimSuffix(name, " evicted"), history.Allowed
	}
	return "", ""
}

// History is what the witness saw and callers were answered under one bound
// over the whole mesh, which stood all the time. Everybody who disrupted the workload must
// be among the tallies.
func (w *Witness) History(bound history.Bound, tallies ...*Tally) (history.History, error) {
	w.mu.Lock()
	events := slices.Clone(w.events)
	w.mu.Unlock()
	if len(events) == 0 {
		return history.History{}, fmt.Errorf("record history of %s: no pod was seen", w.workload.Name)
	}
	r := history.NewRecorder(events[0].at, nil)
	budget := w.workload.Namespace + "/" + w.workload.Name
	for _, c := range w.workload.Clusters {
		r.Record(history.Event{
			Interval: history.At(0), Kind: history.Budget, Budget: budget, Cluster: c.Name,
			Statement: &history.Statement{Bound: bound, Expected: int(w.workload.Replicas)},
		})
	}
	for _, e := range events {
		at := r.Since(e.at)
		r.Record(history.Event{
			Interval: history.Interval{Earliest: r.Since(e.earliest()) - Slack, Latest: at}, Kind: e.kind(),
			Budget: budget, Cluster: e.cluster, Pod: e.uid, Name: e.name,
		})
	}
	pods := named(events)
	for _, t := range tallies {
		for _, q := range t.Requests() {
			uid := pods.uid(q)
			if uid == "" && q.Answer == history.Allowed {
				return history.History{}, fmt.Errorf("record history of %s: the eviction of pod %s in %s was allowed, but nobody saw it", budget, q.Pod, q.Cluster)
			}
			if uid == "" {
				continue // it had ended before anybody looked
			}
			r.Ask(history.Event{
				Interval: history.At(r.Since(q.Asked)), Budget: budget, Cluster: q.Cluster, Pod: uid, Name: q.Pod,
			})(history.At(r.Since(q.Answered)), q.Answer)
		}
	}
	return r.History()
}

func (e sighting) kind() history.Kind {
	switch {
	case e.ending || e.gone:
		return history.Terminating
	case e.available:
		return history.Available
	default:
		return history.Unavailable
	}
}

// names finds pods by the names that evictions ask for.
type names map[string][]sighting

// name identifies a pod until another one gets it.
func name(cluster, pod string) string { return cluster + "/" + pod }

// named indexes the first sighting of each pod.
func named(events []sighting) names {
	all := names{}
	seen := map[string]bool{}
	for _, e := range events {
		if !seen[e.uid] {
			seen[e.uid] = true
			all[name(e.cluster, e.name)] = append(all[name(e.cluster, e.name)], e)
		}
	}
	return all
}

// uid of the pod that a request was about: of several of the name, the last one that
// was seen before the answer; "" if there was none.
func (n names) uid(q Request) string {
	uid := ""
	for _, e := range n[name(q.Cluster, q.Pod)] {
		if !e.at.After(q.Answered.Add(Slack)) {
			uid = e.uid
		}
	}
	return uid
}

// Judge checks a history of real clusters.
func Judge(h history.History) (history.Report, error) {
	return history.Check(h, history.Options{Lag: Lag})
}
