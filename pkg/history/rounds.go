package history

import (
	"slices"
	"time"
)

// Round is a number of requests that were all under way at one moment, on pods
// that counted, while nothing else happened.
type Round struct {
	Span
	// Asked pods, Free slots when the first asked, and Granted pods.
	Asked, Free, Granted int
}

// Owed is how many of the requests could be granted: min(Asked, Free).
func (r Round) Owed() int { return min(r.Asked, r.Free) }

// rounds finds all rounds. A round is a group of overlapping requests that every one of them
// was asked in before the first was answered; nothing but their own permissions and the ends of their pods happened to the budget
// from the first question to the last answer, and no request whose answer is not known or that failed is among them. Those
// that begin with nothing free are left out.
func (s *subject) rounds() []Round {
	levels := s.levels()
	var all []Round
	for start := 0; start < len(s.requests); {
		first := s.requests[start]
		span := Span{From: first.asked.Earliest, To: first.answered.Latest}
		answered, lastAsked := first.answered.Earliest, first.asked.Latest
		end := start + 1
		for ; end < len(s.requests) && s.requests[end].asked.Earliest <= span.To; end++ {
			r := s.requests[end]
			span.To = max(span.To, r.answered.Latest)
			answered, lastAsked = min(answered, r.answered.Earliest), max(lastAsked, r.asked.Latest)
		}
		if free := freeAt(levels, span.From); free > 0 && lastAsked < answered {
			if r, ok := s.round(s.requests[start:end], span); ok {
				r.Free = free
				all = append(all, r)
			}
		}
		start = end
	}
	return all
}

// round makes a round of requests, if the mesh was quiet.
func (s *subject) round(group []*request, span Span) (Round, bool) {
	asked, granted := map[*pod]bool{}, map[*pod]bool{}
	for _, r := range group {
		if r.answer != Allowed && r.answer != Refused {
			return Round{}, false
		}
		asked[r.pod] = true
		if r.answer == Allowed {
			granted[r.pod] = true
		}
	}
	for p := range asked {
		if !p.available(span.From) {
			return Round{}, false
		}
	}
	for _, c := range s.clusters {
		for _, st := range c.statements {
			if st.Latest > 0 && meets(st.Interval, span) {
				return Round{}, false
			}
		}
	}
	for _, p := range s.pods {
		for _, e := range p.edges {
			if e.Latest > 0 && meets(e.Interval, span) {
				return Round{}, false
			}
		}
		if p.end != nil && meets(*p.end, span) && !granted[p] {
			return Round{}, false
		}
		// A permission that has not led to the end yet makes slots that nobody sees.
		for _, r := range p.requests {
			if r.answer != Refused && r.answer != Failed && r.answered.Latest < span.From && p.available(span.From) {
				return Round{}, false
			}
		}
	}
	return Round{Span: span, Asked: len(asked), Granted: len(granted)}, true
}

// freeAt is how many slots were free at a moment.
func freeAt(levels []level, at time.Duration) int {
	after, _ := slices.BinarySearchFunc(levels, at, func(l level, at time.Duration) int {
		if l.at <= at {
			return -1
		}
		return 1
	})
	if after == 0 {
		return 0
	}
	return levels[after-1].free
}

// available reports whether the pod surely was available at a moment.
func (p *pod) available(at time.Duration) bool {
	is := false
	for _, e := range p.edges {
		if e.available && e.Latest <= at {
			is = true
		} else if !e.available && e.Earliest <= at {
			is = false
		}
	}
	return is && (p.end == nil || p.end.Earliest > at)
}

func meets(a Interval, s Span) bool { return a.Earliest <= s.To && s.From <= a.Latest }
