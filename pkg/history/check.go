package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Defaults of Options.
const (
	// DefaultValidity is how long after its answer an API server may still act on
	// a permission (docs/protocol.md, "What holds").
	DefaultValidity = 5 * time.Minute
	// DefaultLimit is some thousand times what usual parts of a history take. A search
	// that explodes needs some 100 MB for each second.
	DefaultLimit = 5 * time.Second
	// DefaultDemand: who drains a node asks again after a pause.
	DefaultDemand = time.Second
)

const (
	// maxExplained violations of a budget are put into words.
	maxExplained = 5
	// maxUnfinished searches of a budget are waited for.
	maxUnfinished = 3
)

// Options of a check. The zero value is strict about time and takes the
// defaults for the rest.
type Options struct {
	// Lag is how long after a pod ceased to be available by itself, or a budget changed, a decision may
	// rest on what was before.
	Lag time.Duration
	// Validity is how long a permission that led to nothing still keeps its pod from counting.
	Validity time.Duration
	// Limit of the time of one search, which is between two quiet points.
	Limit time.Duration
	// Demand is how long after its answer a request still counts as somebody
	// asking, for the idle time.
	Demand time.Duration
	// Idle, if not 0, makes a longer idle time a violation.
	Idle time.Duration
}

func (o Options) withDefaults() Options {
	o.Validity = cmp.Or(o.Validity, DefaultValidity)
	o.Limit = cmp.Or(o.Limit, DefaultLimit)
	o.Demand = cmp.Or(o.Demand, DefaultDemand)
	return o
}

// Verdict on a history. The zero Verdict is invalid. A larger one is worse.
type Verdict uint8

const (
	// Held: every permission was right.
	Held Verdict = iota + 1
	// Undecided: the search was not finished in time, or the history is not complete.
	Undecided
	// Violated: a permission was wrong, in whatever order things happened; or what
	// Options asks for beyond that was not given.
	Violated
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Held:
		return "held"
	case Undecided:
		return "undecided"
	case Violated:
		return "violated"
	default:
		return "invalid"
	}
}

// Check judges a history. The error says that it contradicts itself, so that there
// is nothing to judge.
func Check(h History, o Options) (Report, error) {
	all, err := subjects(h)
	if err != nil {
		return Report{}, err
	}
	o = o.withDefaults()
	report := Report{Start: h.Start}
	for _, s := range all {
		report.Budgets = append(report.Budgets, s.judge(o))
	}
	return report, nil
}

// judge judges all that happened under one budget.
func (s *subject) judge(o Options) Result {
	r := Result{Budget: s.budget, Verdict: Held}
	for _, q := range s.requests {
		switch q.answer {
		case Allowed:
			r.Allowed++
		case Refused:
			r.Refused++
		case Failed:
			r.Failed++
		default:
			r.Unknown++
		}
	}
	ops, gaps := s.operations(o)
	for _, gap := range gaps {
		r.find(Undecided, "incomplete: "+gap)
	}
	unfinished := 0
	for p := range s.parts(ops) {
		switch p.check(o.Limit) {
		case porcupine.Ok:
		case porcupine.Illegal:
			if r.wrong++; len(r.Violations) < maxExplained {
				r.Violations = append(r.Violations, p.explain(o.Limit))
			}
			r.Verdict = Violated
		default:
			r.find(Undecided, fmt.Sprintf("the search among %d operations from %s on was not finished in %s", len(p.ops), p.ops[0].Earliest, o.Limit))
			unfinished++
		}
		if unfinished == maxUnfinished {
			r.find(Undecided, "what came later was not searched")
			break
		}
	}
	r.Idle = s.idle(o.Demand)
	if o.Idle > 0 && r.Idle.Length() > o.Idle {
		r.find(Violated, "idle for "+r.Idle.String()+", at most "+o.Idle.String()+" is asked for")
	}
	r.Rounds = s.rounds()
	return r
}

// parts yields what is between quiet points, each with the world in which it
// begins, if a permission is in it.
func (s *subject) parts(ops []operation) func(yield func(*part) bool) {
	return func(yield func(*part) bool) {
		left := map[*pod]int{}
		for _, op := range ops {
			left[op.pod]++
		}
		standing := map[*pod]byte{}
		stated := string(make([]byte, 2*len(s.clusters)))
		var trail []operation
		for _, some := range divide(ops) {
			p := s.begin(some, standing, stated)
			trail = trail[max(0, len(trail)-maxSteps):]
			p.before = slices.Clone(trail)
			if slices.ContainsFunc(some, func(op operation) bool { return op.what == permit }) && !yield(p) {
				return
			}
			end := p.init
			for _, op := range some {
				left[op.pod]--
				// In any order the same is left behind, so the wrong ones are done as well.
				_, end = p.apply(end, op)
				trail = append(trail, op)
				if counted, _, expected := p.count(end); counted >= expected {
					trail = nil
				}
			}
			clear(standing)
			for i, bits := range []byte(end.pods) {
				if q := p.pods[i]; bits == isAvailable || bits != 0 && left[q] > 0 {
					standing[q] = bits
				}
			}
			stated = end.stated
		}
	}
}

// begin makes a part of operations and of the pods that stand.
func (s *subject) begin(ops []operation, standing map[*pod]byte, stated string) *part {
	p := &part{subject: s, ops: ops, place: map[*pod]int{}}
	p.pods = slices.SortedFunc(maps.Keys(standing), func(a, b *pod) int { return cmp.Compare(a.index, b.index) })
	for i, q := range p.pods {
		p.place[q] = i
	}
	for _, op := range ops {
		if _, ok := p.place[op.pod]; !ok && op.pod != nil {
			p.place[op.pod] = len(p.pods)
			p.pods = append(p.pods, op.pod)
		}
	}
	bits := make([]byte, len(p.pods))
	for q, b := range standing {
		bits[p.place[q]] = b
	}
	p.init = world{pods: string(bits), stated: stated}
	return p
}

// check searches for an order, unless it is plain that there is none.
func (p *part) check(limit time.Duration) porcupine.CheckResult {
	if p.overdrawn() {
		return porcupine.Illegal
	}
	return porcupine.CheckOperationsTimeout(p.model(), p.history(), limit)
}

// overdrawn reports whether there are more permissions than slots in whatever order:
// after the last of those that surely cost one, even with every pod of
// the part too few count. A search would try all subsets of them before it found that out.
func (p *part) overdrawn() bool {
	most, desired, _ := p.count(p.init)
	doubtful := map[*pod]bool{}
	for i, q := range p.pods {
		if bits := p.init.pods[i]; bits == isAvailable && p.said(p.init, q.cluster) == nil || bits&isPermitted != 0 {
			doubtful[q] = true
		}
	}
	// since when a pod is available at last, in every order.
	since := map[*pod]time.Duration{}
	for i, q := range p.pods {
		if p.init.pods[i] == isAvailable {
			since[q] = p.ops[0].Earliest - 1
		}
	}
	for _, op := range p.ops {
		switch op.what {
		case state:
			return false
		case gain:
			most++
			since[op.pod] = op.Latest
		case lose:
			doubtful[op.pod] = true
		case lapse:
			doubtful[op.pod] = true
			most++
		}
	}
	costly := 0
	for _, op := range p.ops {
		if op.what != permit || doubtful[op.pod] || p.said(p.init, op.pod.cluster) == nil {
			continue
		}
		if from, ok := since[op.pod]; ok && from < op.Earliest {
			costly++
		}
	}
	return costly > 0 && most-costly < desired
}
