package history

import (
	"cmp"
	"slices"
	"time"
)

// what an operation does. The zero value is invalid.
type what uint8

const (
	gain   what = iota + 1 // the pod becomes available
	lose                   // it is available no longer
	permit                 // its disruption is allowed
	lapse                  // the permission led to nothing and holds no longer
	state                  // the cluster states its next statement
)

// operation of the model, with effect at one moment in its interval.
type operation struct {
	Interval
	what    what
	pod     *pod
	cluster *cluster
	// number of the statement, from 1.
	number int
	// permission of a permit.
	permission *permission
}

// operations turns a subject into operations by their earliest moments. Those of one pod,
// and those of one cluster's statements, stay in their order.
func (s *subject) operations(o Options) (all []operation, gaps []string) {
	for _, c := range s.clusters {
		for i, st := range c.statements {
			at := late(st.Interval, o.Lag)
			all = append(all, operation{Interval: at, what: state, cluster: c, number: i + 1})
		}
	}
	for _, p := range s.pods {
		granted, gap := p.permissions(o.Validity)
		if gap != "" {
			gaps = append(gaps, gap)
		}
		all = append(all, p.changes(granted, o.Lag)...)
		for _, g := range granted {
			all = append(all, operation{Interval: g.Interval, what: permit, pod: p, permission: g})
			if g.lapses > 0 {
				all = append(all, operation{Interval: At(g.lapses), what: lapse, pod: p})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b operation) int { return cmp.Compare(a.Earliest, b.Earliest) })
	return all, gaps
}

// beginning is when all happened that was so when the history began: before
// anything else.
var beginning = At(-1)

// late is when a change may have been known at last to those who decide.
func late(at Interval, lag time.Duration) Interval {
	if at.Latest <= 0 {
		return beginning
	}
	at.Latest += lag
	return at
}

// changes are the operations of the pod's availability.
func (p *pod) changes(granted []*permission, lag time.Duration) []operation {
	edges := slices.Clone(p.edges)
	ended := p.end != nil && (len(granted) == 0 || p.lost || granted[len(granted)-1].lapses > 0)
	if ended && len(edges) > 0 && edges[len(edges)-1].available {
		edges = append(edges, edge{Interval: *p.end})
	}
	for i := range edges {
		if !edges[i].available {
			edges[i].Interval = late(edges[i].Interval, lag)
		} else if edges[i].Latest <= 0 {
			edges[i].Interval = beginning
		}
	}
	if !entangled(edges, granted) {
		edges = generous(edges)
	}
	var all []operation
	for _, e := range edges {
		kind := lose
		if e.available {
			kind = gain
		}
		all = append(all, operation{Interval: e.Interval, what: kind, pod: p})
	}
	return all
}

// entangled reports whether a permission may lie on either side of a change of
// its own pod, so that the moment of the change matters to both.
func entangled(edges []edge, granted []*permission) bool {
	for _, g := range granted {
		for _, e := range edges {
			if e.Earliest <= g.Latest && g.Earliest <= e.Latest {
				return true
			}
		}
	}
	return false
}

// generous puts each change at the one moment that is in favour of all
// permissions: the pod counts whenever it may have been available.
func generous(edges []edge) []edge {
	var all []edge
	for _, e := range edges {
		if e.available {
			e.Interval = At(e.Earliest)
			if n := len(all); n > 0 && all[n-1].Latest >= e.Earliest {
				all = all[:n-1] // it may never have been unavailable
				continue
			}
		} else {
			e.Interval = At(e.Latest)
		}
		all = append(all, e)
	}
	return all
}

// divide cuts operations at quiet points, moments that none of them spans.
func divide(all []operation) [][]operation {
	var parts [][]operation
	start := 0
	var until time.Duration
	for i, op := range all {
		if i > start && op.Earliest > until {
			parts = append(parts, all[start:i])
			start = i
		}
		until = max(until, op.Latest)
	}
	if start < len(all) {
		parts = append(parts, all[start:])
	}
	return parts
}
