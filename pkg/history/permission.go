package history

import (
	"fmt"
	"slices"
	"time"
)

// permission to disrupt a pod: what one or several requests on it were given.
// It took effect at a moment in its interval.
type permission struct {
	Interval
	pod *pod
	// by is who asked, and answers the last moment at which the permission was confirmed.
	by      *request
	answers time.Duration
	// lapses is when it ends, if it led to nothing; 0 for never.
	lapses time.Duration
}

// permissions of a pod, in order. gap says what nobody can explain, "" if all is.
//
// Several answers that allow the same disruption are one permission: it takes
// effect before the first of them, and after the first question that may have brought it about, a lost one included. It ends a validity
// after the last one, unless the pod ended first.
func (p *pod) permissions(validity time.Duration) (all []*permission, gap string) {
	for _, r := range p.requests {
		if r.answer != Allowed || p.end != nil && r.asked.Earliest > p.end.Latest {
			continue // what is allowed on a pod that ends already costs nothing
		}
		if n := len(all); n > 0 && r.asked.Earliest <= all[n-1].answers+validity {
			last := all[n-1]
			last.Latest = min(last.Latest, r.answered.Latest)
			last.answers = max(last.answers, r.answered.Latest)
			continue
		}
		all = append(all, &permission{
			Interval: Interval{Earliest: r.asked.Earliest, Latest: r.answered.Latest}, pod: p, by: r, answers: r.answered.Latest,
		})
	}
	voluntary := p.end != nil && !p.lost
	explained := false
	for _, g := range all {
		explained = explained || voluntary && p.end.Earliest <= g.answers+validity
	}
	if voluntary && !explained {
		if g := p.silent(validity); g != nil {
			all, explained = append(all, g), true
		}
	}
	if voluntary && !explained && p.wasAvailable() {
		gap = fmt.Sprintf("%s of %s was disrupted %s, but nobody asked for it", p, p.cluster.name, describe(*p.end))
	}
	for i, g := range all {
		from := g.Earliest - validity
		if i > 0 {
			from = max(from, all[i-1].lapses)
		}
		g.Earliest = p.firstUnknown(from, g.Interval)
		if voluntary {
			g.Latest = min(g.Latest, p.end.Latest)
		}
		if p.end == nil || p.end.Earliest > g.answers+validity {
			g.lapses = g.answers + validity
		}
	}
	return all, gap
}

// wasAvailable reports whether there was anything to disrupt. Kubernetes' controllers delete pods that they
// have made too many, which they do when they start with an old view.
func (p *pod) wasAvailable() bool {
	return slices.ContainsFunc(p.edges, func(e edge) bool { return e.available })
}

// silent is the permission that lost answers must have been, since the pod ended; nil
// if there was no such request.
func (p *pod) silent(validity time.Duration) *permission {
	for _, r := range p.requests {
		if r.answer == Unknown && r.asked.Earliest <= p.end.Latest && p.end.Earliest <= r.answered.Latest+validity {
			return &permission{
				Interval: Interval{Earliest: r.asked.Earliest, Latest: p.end.Latest}, pod: p, by: r, answers: p.end.Latest,
			}
		}
	}
	return nil
}

// firstUnknown is the earliest moment at which a permission may have taken
// effect by a request whose answer was lost, not before from.
func (p *pod) firstUnknown(from time.Duration, at Interval) time.Duration {
	for _, r := range p.requests {
		if r.answer == Unknown && r.asked.Earliest >= from && r.asked.Earliest < at.Earliest {
			return r.asked.Earliest
		}
	}
	return at.Earliest
}
