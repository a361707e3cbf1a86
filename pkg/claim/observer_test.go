package claim

import (
	"fmt"
	"slices"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// observer knows everything and tells the protocol nothing. It keeps what
// theorem 1 speaks of and checks it after every step.
type observer struct {
	*world
	writes int
	// newest is, by budget, the granted claim that was written last.
	newest []*proof
	// desired is, by budget, the most that a granted claim had to leave.
	desired []int
	failure error
}

// proof is the newest granted claim with the pods it counted: g* and C*.
type proof struct {
	claim   string
	order   int
	desired int
	counted []*pod
}

// written draws the next instant w: a claim stands in every registered instance.
func (o *observer) written() int {
	o.writes++
	return o.writes
}

// grant happens at the instant when the ledger takes the grant.
func (o *observer) grant(r *run) {
	o.trace("GRANT %s of %s", r.attempt.Claim().ID, r.pod.uid)
	if r.granted {
		return
	}
	r.granted = true
	o.stats.grants++
	if !r.ended {
		o.authorise(r)
	}
	for b := range o.budgets {
		if !r.pod.covered(b) {
			continue
		}
		p := o.prove(r, b)
		if p.desired > o.desired[b] && !o.tightens {
			o.desired[b] = p.desired
		}
		if o.newest[b] == nil || o.newest[b].order < p.order {
			o.newest[b] = p
		}
	}
}

// saw keeps S1: per cluster the claims of the first valid snapshot.
func (o *observer) saw(r *run, snapshots []Snapshot) {
	r.snapshots = snapshots
	for _, s := range snapshots {
		if s.Invalid != "" || r.first[s.Cluster] != nil {
			continue
		}
		r.first[s.Cluster] = map[string]bool{}
		for _, c := range s.Claims {
			r.first[s.Cluster][c.ID] = true
		}
	}
}

// prove counts again, from the same snapshots and in the plainest way.
func (o *observer) prove(r *run, b int) *proof {
	p := &proof{claim: r.attempt.Claim().ID, order: r.order}
	at := slices.IndexFunc(r.attempt.request.Budgets, func(c Covering) bool { return c.Name == budgetName(b) })
	view := ViewID(r.attempt.request.Budgets[at].Clusters)
	sum, expected := 0, 0
	var bounds []budget.Bound
	for _, s := range r.snapshots {
		report := s.Budgets[budgetName(b)]
		bounds = append(bounds, report.Bounds...)
		if s.Invalid != "" {
			continue
		}
		expected += report.Expected
		n, first := 0, r.first[s.Cluster]
		for _, c := range report.Pods {
			claimed := slices.ContainsFunc(s.Claims, func(k Claim) bool {
				at := slices.Index(k.Budgets, budgetName(b))
				return k.UID == c.UID && (first == nil || first[k.ID] || at < 0 || k.Views[at] != view)
			})
			if c.Available && !claimed && c.UID != r.pod.uid {
				n++
				p.counted = append(p.counted, o.pod(c.UID))
			}
		}
		sum += min(n, report.Expected)
	}
	for _, bound := range bounds {
		p.desired = max(p.desired, bound.Desired(expected))
	}
	if sum < p.desired {
		o.fail("claim %s counted %d pods and had to leave %d", p.claim, sum, p.desired)
	}
	return p
}

func (o *observer) pod(uid string) *pod {
	for _, c := range o.clusters {
		if i := c.find(uid); i >= 0 {
			return c.pods[i]
		}
	}
	return nil
}

// authorise: from this instant the API server may be told "allowed" and act on
// it, until T later (A3).
func (o *observer) authorise(r *run) {
	if r.authorised {
		return
	}
	r.authorised = true
	r.pod.auths++
	delay := GrantTimeout
	if o.broken == slowAPIServer {
		delay *= 3
	}
	o.timer(o.now.Add(delay), func() { o.conclude(r) })
}

// answered ends a run; whoever was told "allowed" deletes the pod some time later.
func (o *observer) answered(r *run) {
	r.ended = true
	r.process.runs = slices.DeleteFunc(r.process.runs, func(x *run) bool { return x == r })
	outcome := r.attempt.Outcome()
	o.trace("%s %s answers allowed=%v: %s", r.name, r.attempt.Claim().ID, outcome.Allowed, outcome.Sentence)
	o.stats.answer(outcome)
	if !outcome.Allowed {
		o.revoke(r)
		return
	}
	if outcome.Repeated && o.broken == repeatWithoutSwap {
		o.authorise(r)
	}
	r.allowed = r.authorised
	if o.rand.IntN(4) >= o.idle {
		o.later(func() { o.conclude(r) })
	}
}

// conclude is the API server's last word: it deletes, or never will.
func (o *observer) conclude(r *run) {
	if !r.authorised {
		return
	}
	o.revoke(r)
	if r.allowed && o.rand.IntN(4) > 0 && !r.pod.state().ended {
		o.trace("DELETE %s", r.pod.uid)
		r.pod.disrupted = true
		r.pod.end()
	}
}

func (o *observer) revoke(r *run) {
	if r.authorised {
		r.authorised = false
		r.pod.auths--
	}
}

// check is theorem 1.
func (o *observer) check() error {
	for b := range o.budgets {
		remaining, lost := 0, 0
		for _, c := range o.clusters {
			for _, p := range c.pods {
				if p.covered(b) && p.available() && p.auths == 0 {
					remaining++
				}
			}
		}
		g := o.newest[b]
		if g != nil {
			for _, p := range g.counted {
				switch {
				case p.auths > 0 || p.disrupted:
					o.fail("%s was granted counting %s, which another grant disrupts", g.claim, p.uid)
				case p.involuntary:
					lost++
				case !p.available():
					o.fail("%s was granted counting %s, which is not available", g.claim, p.uid)
				}
			}
			if remaining+lost < g.desired {
				o.fail("%s had to leave %d pods of %s: %d remain, %d failed", g.claim, g.desired, budgetName(b), remaining, lost)
			}
		}
		if o.kill == 0 && o.flap == 0 && remaining < o.plain(b) {
			o.fail("%d pods of %s are available and not to be disrupted, %d must be", remaining, budgetName(b), o.plain(b))
		}
		if b == 0 && remaining == o.least() {
			o.stats.full = 1
		}
	}
	return o.failure
}

// plain is what must hold in the absence of involuntary failures.
func (o *observer) plain(b int) int {
	if o.joins {
		return o.desired[b]
	}
	expected := 0
	for i := range o.size {
		expected += o.expected(i, b)
	}
	return max(0, expected-o.slots)
}

// least is the number of pods that remain when all slots are in use.
func (o *observer) least() int { return max(0, o.size*o.scenario.pods-o.slots) }

func (o *observer) fail(format string, args ...any) {
	if o.failure == nil {
		o.failure = fmt.Errorf(format, args...)
	}
}
