package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Span is a stretch of time since the start of the history.
type Span struct{ From, To time.Duration }

// Length of the stretch.
func (s Span) Length() time.Duration { return s.To - s.From }

// String tells its length and when it was.
func (s Span) String() string {
	return fmt.Sprintf("%s (from %s to %s)", s.Length().Round(time.Millisecond), s.From.Round(time.Millisecond), s.To.Round(time.Millisecond))
}

// level is how many pods more than the budget wants are available from a moment on.
type level struct {
	at   time.Duration
	free int
}

// levels are what everybody could see by the latest moment of each event,
// permissions aside.
func (s *subject) levels() []level {
	type change struct {
		at        time.Duration
		pod       *pod
		available bool
		cluster   *cluster
		said      *Statement
	}
	var changes []change
	for _, c := range s.clusters {
		for _, st := range c.statements {
			changes = append(changes, change{at: st.Latest, cluster: c, said: st.said})
		}
	}
	for _, p := range s.pods {
		for _, e := range p.edges {
			changes = append(changes, change{at: e.Latest, pod: p, available: e.available})
		}
		if p.end != nil {
			changes = append(changes, change{at: p.end.Latest, pod: p})
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	available := map[*pod]bool{}
	byCluster := make([]int, len(s.clusters))
	said := make([]*Statement, len(s.clusters))
	var all []level
	for _, c := range changes {
		if c.cluster != nil {
			said[c.cluster.index] = c.said
		} else if available[c.pod] != c.available {
			available[c.pod] = c.available
			if c.available {
				byCluster[c.pod.cluster.index]++
			} else {
				byCluster[c.pod.cluster.index]--
			}
		}
		expected, counted, desired, stated := 0, 0, 0, false
		for i, st := range said {
			if st != nil {
				expected, counted, stated = expected+st.Expected, counted+byCluster[i], true
			}
		}
		for _, st := range said {
			if st != nil {
				wanted, _ := st.Desired(expected) // validated with the event
				desired = max(desired, wanted)
			}
		}
		if !stated {
			counted = desired // nobody needs a budget that is not stated
		}
		all = append(all, level{at: c.at, free: counted - desired})
	}
	return all
}

// idle returns the longest stretch in which there was budget and demand, and
// nobody was granted. At a moment
//
//   - there is budget, if more pods than wanted are available;
//   - there is demand, if a request is under way or was answered no longer than demand ago;
//   - the answer of a grant ends a stretch, and the next one begins with it.
//
// It is the time that a slot lay unused although somebody wanted it, whatever the
// reason: a decision under way, a claim that is not tidied away yet, requests
// that wait for each other. The observation ends with the last answer.
func (s *subject) idle(demand time.Duration) Span {
	var end time.Duration
	var grants []time.Duration
	for _, r := range s.requests {
		end = max(end, r.answered.Latest)
		if r.answer == Allowed {
			grants = append(grants, r.answered.Latest)
		}
	}
	var longest Span
	for _, idle := range cut(overlap(budgeted(s.levels(), end), wanted(s.requests, demand, end)), grants) {
		if idle.Length() > longest.Length() {
			longest = idle
		}
	}
	return longest
}

// budgeted returns the stretches in which budget is free.
func budgeted(levels []level, end time.Duration) []Span {
	var spans []Span
	open := false
	for _, l := range levels {
		switch free := l.free > 0 && l.at < end; {
		case free && !open:
			spans, open = append(spans, Span{From: l.at, To: end}), true
		case !free && open:
			spans[len(spans)-1].To, open = min(l.at, end), false
		}
	}
	return spans
}

// wanted returns the stretches in which there is demand, none of them touching
// another.
func wanted(requests []*request, demand, end time.Duration) []Span {
	var all []Span
	for _, r := range requests {
		all = append(all, Span{From: r.asked.Earliest, To: min(r.answered.Latest+demand, end)})
	}
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	var merged []Span
	for _, s := range all {
		if n := len(merged); n > 0 && s.From <= merged[n-1].To {
			merged[n-1].To = max(merged[n-1].To, s.To)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// overlap returns what two ascending lists of stretches have in common.
func overlap(a, b []Span) []Span {
	var common []Span
	for len(a) > 0 && len(b) > 0 {
		s := Span{From: max(a[0].From, b[0].From), To: min(a[0].To, b[0].To)}
		if s.To > s.From {
			common = append(common, s)
		}
		if a[0].To < b[0].To {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return common
}

// cut divides ascending stretches at the given moments.
func cut(spans []Span, at []time.Duration) []Span {
	slices.Sort(at)
	var parts []Span
	for _, s := range spans {
		for len(at) > 0 && at[0] <= s.From {
			at = at[1:]
		}
		for len(at) > 0 && at[0] < s.To {
			parts = append(parts, Span{From: s.From, To: at[0]})
			s.From, at = at[0], at[1:]
		}
		parts = append(parts, s)
	}
	return parts
}
