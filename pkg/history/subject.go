package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// subject is all that happened under one budget.
type subject struct {
	budget   string
	clusters []*cluster
	pods     []*pod
	requests []*request
	end      time.Duration

	byCluster map[string]*cluster
	byUID     map[string]*pod
}

// cluster of a subject, with what it stated over time.
type cluster struct {
	index      int
	name       string
	statements []statement
}

// statement in force from a moment in its interval on; nil ones withdraw.
type statement struct {
	Interval
	said *Statement
}

// pod of a subject.
type pod struct {
	index     int
	uid, name string
	cluster   *cluster
	// edges alternate: available, unavailable, and so on.
	edges []edge
	// end is when it ended or began to, if it did.
	end *Interval
	// lost: nobody needs to have asked for the end.
	lost     bool
	requests []*request
}

type edge struct {
	Interval
	available bool
}

func (p *pod) String() string {
	if p.name == "" {
		return p.uid
	}
	return p.name
}

// request with its answer.
type request struct {
	pod      *pod
	caller   string
	asked    Interval
	answered Interval
	// answer is "" until there is one.
	answer Answer
}

// subjects sorts a history by budget. The error is about the history: it
// contradicts itself.
func subjects(h History) ([]*subject, error) {
	all := map[string]*subject{}
	open := map[uint64]*request{}
	answered := map[uint64]bool{}
	for i, e := range h.Events {
		err := e.validate()
		if err == nil && e.Kind == Answered {
			err = closeRequest(open, answered, e)
		} else if err == nil {
			s := all[e.Budget]
			if s == nil {
				s = &subject{budget: e.Budget, byCluster: map[string]*cluster{}, byUID: map[string]*pod{}}
				all[e.Budget] = s
			}
			err = s.take(e, open, answered)
		}
		if err != nil {
			return nil, fmt.Errorf("judge history: event %d: %w", i+1, err)
		}
	}
	var sorted []*subject
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		s.finish()
		sorted = append(sorted, s)
	}
	return sorted, nil
}

func closeRequest(open map[uint64]*request, answered map[uint64]bool, e Event) error {
	r := open[e.Request]
	if r == nil {
		return fmt.Errorf("request %d is answered, but was not asked or is answered already", e.Request)
	}
	if e.Latest < r.asked.Earliest {
		return fmt.Errorf("request %d is answered before it was asked", e.Request)
	}
	delete(open, e.Request)
	answered[e.Request] = true
	r.answered, r.answer = e.Interval, e.Answer
	return nil
}

func (s *subject) take(e Event, open map[uint64]*request, answered map[uint64]bool) error {
	c := s.byCluster[e.Cluster]
	if c == nil {
		c = &cluster{index: len(s.clusters), name: e.Cluster}
		s.byCluster[e.Cluster], s.clusters = c, append(s.clusters, c)
	}
	if e.Kind == Budget {
		at := e.Interval
		if n := len(c.statements); n > 0 {
			at = after(at, c.statements[n-1].Interval)
		}
		c.statements = append(c.statements, statement{Interval: at, said: e.Statement})
		return nil
	}
	p := s.byUID[e.Pod]
	if p == nil {
		p = &pod{index: len(s.pods), uid: e.Pod, cluster: c}
		s.byUID[e.Pod], s.pods = p, append(s.pods, p)
	}
	if p.cluster != c {
		return fmt.Errorf("pod %s is of cluster %s and of %s", e.Pod, p.cluster.name, e.Cluster)
	}
	p.name = cmp.Or(p.name, e.Name)
	if e.Kind == Asked {
		if open[e.Request] != nil || answered[e.Request] {
			return fmt.Errorf("request %d is asked twice", e.Request)
		}
		r := &request{pod: p, caller: e.Caller, asked: e.Interval}
		open[e.Request] = r
		s.requests, p.requests = append(s.requests, r), append(p.requests, r)
		return nil
	}
	p.take(e)
	return nil
}

// take takes in what happened to the pod. What is told of a pod that has ended
// is not news, and neither is what is told twice.
func (p *pod) take(e Event) {
	at := e.Interval
	n := len(p.edges)
	if n > 0 {
		at = after(at, p.edges[n-1].Interval)
	}
	available := n > 0 && p.edges[n-1].available
	switch {
	case p.end != nil:
	case e.Kind == Terminating || e.Kind == Lost:
		p.end, p.lost = &at, e.Kind == Lost
	case available != (e.Kind == Available):
		p.edges = append(p.edges, edge{Interval: at, available: e.Kind == Available})
	}
}

// after puts an interval in order behind the one of the event before it.
func after(at, before Interval) Interval {
	return Interval{Earliest: max(at.Earliest, before.Earliest), Latest: max(at.Latest, before.Latest)}
}

// finish ends requests that were never answered with the history, and sorts.
func (s *subject) finish() {
	for _, c := range s.clusters {
		for _, st := range c.statements {
			s.end = max(s.end, st.Latest)
		}
	}
	for _, p := range s.pods {
		for _, e := range p.edges {
			s.end = max(s.end, e.Latest)
		}
		if p.end != nil {
			s.end = max(s.end, p.end.Latest)
		}
	}
	for _, r := range s.requests {
		s.end = max(s.end, r.asked.Latest, r.answered.Latest)
	}
	for _, r := range s.requests {
		if r.answer == "" {
			r.answered, r.answer = At(s.end), Unknown
		}
	}
	byQuestion := func(a, b *request) int { return cmp.Compare(a.asked.Earliest, b.asked.Earliest) }
	slices.SortStableFunc(s.requests, byQuestion)
	for _, p := range s.pods {
		slices.SortStableFunc(p.requests, byQuestion)
	}
}
