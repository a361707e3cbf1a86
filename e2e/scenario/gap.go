package scenario

import (
	"slices"
	"time"
)

// demand is how long somebody who was answered still counts as asking: who
// drains a node asks again after a pause.
const demand = time.Second

// Span is a stretch of time.
type Span struct{ From, To time.Time }

// Length of the stretch.
func (s Span) Length() time.Duration { return s.To.Sub(s.From) }

// Level is how many pods are available from a moment on.
type Level struct {
	At        time.Time
	Available int
}

// Levels returns the number of available pods in all clusters over time.
func (w *Witness) Levels() []Level {
	w.mu.Lock()
	defer w.mu.Unlock()
	var levels []Level
	available := map[string]bool{}
	for _, e := range w.events {
		delete(available, e.uid)
		if e.available {
			available[e.uid] = true
		}
		levels = append(levels, Level{At: e.at, Available: len(available)})
	}
	return levels
}

// LongestGap returns the longest stretch in which there was budget and demand,
// and nobody was granted; the zero Span if there was none. At a moment
//
//   - there is budget, if more than desired pods are available;
//   - there is demand, if a request is under way or was answered within the
//     last second;
//   - the answer of a grant ends a stretch, and the next one begins with it.
//
// It is the time that a slot lay idle although somebody wanted it, whatever the
// reason: a decision under way, a claim that is not tidied away yet, requests
// that wait for each other. The observation ends with the last answer.
func LongestGap(levels []Level, desired int, requests []Request) Span {
	var end time.Time
	var grants []time.Time
	for _, r := range requests {
		if r.Answered.After(end) {
			end = r.Answered
		}
		if r.Verdict == Granted {
			grants = append(grants, r.Answered)
		}
	}
	idle := overlap(budgeted(levels, desired, end), wanted(requests, end))
	var longest Span
	for _, s := range cut(idle, grants) {
		if s.Length() > longest.Length() {
			longest = s
		}
	}
	return longest
}

// budgeted returns the stretches in which more than desired pods are available.
func budgeted(levels []Level, desired int, end time.Time) []Span {
	var spans []Span
	open := false
	for _, l := range levels {
		switch free := l.Available > desired && l.At.Before(end); {
		case free && !open:
			spans, open = append(spans, Span{From: l.At, To: end}), true
		case !free && open:
			spans[len(spans)-1].To, open = earlier(l.At, end), false
		}
	}
	return spans
}

// wanted returns the stretches in which there is demand, none of them touching
// another.
func wanted(requests []Request, end time.Time) []Span {
	var all []Span
	for _, r := range requests {
		all = append(all, Span{From: r.Asked, To: earlier(r.Answered.Add(demand), end)})
	}
	slices.SortFunc(all, func(a, b Span) int { return a.From.Compare(b.From) })
	var merged []Span
	for _, s := range all {
		if n := len(merged); n > 0 && !s.From.After(merged[n-1].To) {
			if s.To.After(merged[n-1].To) {
				merged[n-1].To = s.To
			}
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
		s := Span{From: a[0].From, To: earlier(a[0].To, b[0].To)}
		if b[0].From.After(s.From) {
			s.From = b[0].From
		}
		if s.To.After(s.From) {
			common = append(common, s)
		}
		if a[0].To.Before(b[0].To) {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return common
}

// cut divides stretches at the given moments.
func cut(spans []Span, at []time.Time) []Span {
	at = slices.SortedFunc(slices.Values(at), time.Time.Compare)
	var parts []Span
	for _, s := range spans {
		for _, t := range at {
			if t.After(s.From) && t.Before(s.To) {
				parts = append(parts, Span{From: s.From, To: t})
				s.From = t
			}
		}
		parts = append(parts, s)
	}
	return parts
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
