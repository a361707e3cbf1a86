package simulation

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// witness sees everything and trusts nothing: it counts again what each granted
// claim has counted, and checks what must hold after every step.
type witness struct {
	*world
	mu     sync.Mutex
	claims map[string]*request
	// newest is, by budget, the granted claim that was written last.
	newest []*proof
	orders int
	dirty  bool
	err    error
}

// proof is a granted claim and the pods that it counted.
type proof struct {
	name    string
	order   int
	desired int
	counted []*pod
}

func newWitness(w *world) *witness {
	return &witness{world: w, claims: map[string]*request{}, newest: make([]*proof, w.Budgets)}
}

func (o *witness) fail(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
		o.say("VIOLATION: %v", o.err)
	}
}

// asks takes note of the claim that a request appends.
func (o *witness) asks(ctx context.Context, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims[id] = requestOf(ctx)
}

// repeats: the pod's disruption was permitted before, and is again (R8).
func (o *witness) repeats(ctx context.Context) {
	r := requestOf(ctx)
	o.stats.Repeated++
	o.permit(r)
}

func (o *witness) permit(r *request) {
	if r.over || r.permitted {
		return
	}
	r.permitted = true
	r.pod.permits++
	o.dirty = true
}

// goesOn: a request begins its next step.
func (o *witness) goesOn(ctx context.Context) {
	r := requestOf(ctx)
	r.entry = r.process.reads.turn()
}

// stepped is told the end of a request's step. With the end of the writes the
// claim stands in every registered instance.
func (o *witness) stepped(ctx context.Context, step string) {
	r := requestOf(ctx)
	switch step {
	case "ReadRegistry", "WriteInstances":
		o.orders++
		r.order = o.orders
	case "ReadClusters":
		o.saw(r)
	case "AwaitChange":
		o.stats.Waits++
	}
}

// saw finds the snapshots that a request's step rested on.
func (o *witness) saw(r *request) {
	r.snapshots = nil
	scope := map[string]bool{r.process.cluster.name: true}
	for _, b := range r.budgets {
		for _, c := range b.Clusters {
			scope[c] = true
		}
	}
	for _, c := range o.clusters {
		if !scope[c.name] {
			continue
		}
		s, ended := r.process.reads.after(r.entry, c.name)
		if !ended {
			s = claim.Snapshot{Cluster: c.name, Invalid: "not read in time"}
		}
		r.snapshots = append(r.snapshots, s)
		if s.Invalid != "" || r.first[c.name] != nil {
			continue
		}
		r.first[c.name] = map[string]bool{}
		for _, k := range s.Claims {
			r.first[c.name][k.ID] = true
		}
	}
}

// ledger is told every durable write of a ledger, at the moment when it takes effect.
func (o *witness) ledger(c *cluster, before, after *v1alpha1.DisruptionLedger) {
	granted := map[string]bool{}
	if before != nil {
		for _, k := range before.Claims {
			granted[k.ID] = k.State == claim.Granted.String()
		}
	}
	for _, k := range after.Claims {
		if k.State == claim.Granted.String() && !granted[k.ID] {
			o.granted(o.claims[k.ID], k.ID)
		}
	}
}

// granted is the moment from which a disruption may be permitted.
func (o *witness) granted(r *request, id string) {
	o.say("GRANT %s of %s", id, r.pod.uid)
	if r.granted {
		return
	}
	r.granted = true
	o.stats.Granted++
	o.permit(r)
	for b := range o.Budgets {
		if !slices.ContainsFunc(r.budgets, func(k claim.Covering) bool { return k.Name == fullName(b) }) {
			continue
		}
		p := o.prove(r, id, b)
		if o.newest[b] == nil || o.newest[b].order < p.order {
			o.newest[b] = p
		}
	}
}

// prove counts again, from the same snapshots and in the plainest way.
func (o *witness) prove(r *request, id string, b int) *proof {
	p := &proof{name: id, order: r.order}
	at := slices.IndexFunc(r.budgets, func(k claim.Covering) bool { return k.Name == fullName(b) })
	covering := r.budgets[at]
	sum, expected := 0, 0
	var bounds []budget.Bound
	for _, s := range r.snapshots {
		if !slices.Contains(covering.Clusters, s.Cluster) {
			continue
		}
		report := s.Budgets[fullName(b)]
		if s.Invalid != "" && len(report.Bounds) == 0 {
			bounds = append(bounds, covering.LastKnown[s.Cluster]...)
		}
		bounds = append(bounds, report.Bounds...)
		if s.Invalid != "" || report.Undecided != "" {
			continue
		}
		expected += report.Expected
		n, first := 0, r.first[s.Cluster]
		for _, shown := range report.Pods {
			claimed := slices.ContainsFunc(s.Claims, func(k claim.Claim) bool {
				return k.UID == shown.UID && (first == nil || first[k.ID] || !sameClusters(k, covering))
			})
			if shown.Available && !claimed && shown.UID != r.pod.uid {
				n++
				p.counted = append(p.counted, o.pods[shown.UID])
			}
		}
		sum += min(n, report.Expected)
	}
	for _, bound := range bounds {
		p.desired = max(p.desired, bound.Desired(expected))
	}
	o.say("%s counted %d pods and had to leave %d of %s", id, sum, p.desired, fullName(b))
	if sum < p.desired {
		o.fail("claim %s counted %d pods and had to leave %d", id, sum, p.desired)
	}
	return p
}

// sameClusters reports whether a claim's decision asks the same clusters for a budget: one that came
// later has then met ours in each of them.
func sameClusters(k claim.Claim, covering claim.Covering) bool {
	at := slices.Index(k.Budgets, covering.Name)
	return at >= 0 && at < len(k.Views) && k.Views[at] == claim.ViewID(covering.Clusters)
}

// answered is the moment when the API server hears the answer.
func (o *witness) answered(r *request, outcome claim.Outcome, took time.Duration) {
	o.say("%s allowed=%v after %s: %s", r.name, outcome.Allowed, took, outcome.Sentence)
	if took > decisionTimeout+time.Millisecond {
		o.fail("%s was answered after %s, more than %s", r.name, took, decisionTimeout)
	}
	if outcome.Allowed && !r.granted && !outcome.Repeated {
		o.fail("%s was allowed without a durable grant", r.name)
	}
	o.stats.answer(outcome)
	heard := !r.over
	if heard {
		r.tell(answerOf(outcome))
	}
	r.answered = true
	if !outcome.Allowed || !heard {
		r.conclude(false)
	} else {
		o.act(r)
	}
	if r.then != nil && heard {
		r.then(r, outcome)
	}
}

func answerOf(o claim.Outcome) history.Answer {
	if o.Allowed {
		return history.Allowed
	}
	return history.Refused
}

// act lets the API server delete the pod, at once or much later, or not at all.
func (o *witness) act(r *request) {
	delay := o.between(time.Millisecond, 50*time.Millisecond)
	switch o.rand.IntN(12) {
	case 0:
		delay = o.between(time.Second, 20*time.Second)
	case 1:
		delay = o.between(20*time.Second, claim.GrantTimeout)
	}
	if o.Patient {
		delay = o.between(time.Second, 15*time.Second)
	}
	deletes := o.rand.IntN(8) > 0
	o.later(delay, r.name+" is concluded", func() { r.conclude(deletes) })
}

// check is what docs/protocol.md promises: none of the pods that the newest
// granted claim counted was ever granted to anybody, and enough remain.
func (o *witness) check() {
	if !o.dirty || o.err != nil {
		return
	}
	o.dirty = false
	for b, g := range o.newest {
		remaining, lost := 0, 0
		for _, c := range o.clusters {
			for _, p := range c.pods {
				if p.covered(b) && p.available() && p.permits == 0 {
					remaining++
				}
			}
		}
		if least := o.least(b); o.steady() && remaining < least {
			o.fail("%d pods of %s are available and not about to be disrupted, %d must be", remaining, fullName(b), least)
		}
		if g == nil {
			continue
		}
		for _, p := range g.counted {
			switch {
			case p.permits > 0 || p.disrupted:
				o.fail("%s was granted counting %s, which another grant disrupts", g.name, p.uid)
			case !p.available() && p.involuntary:
				lost++
			case !p.available():
				o.fail("%s was granted counting %s, which is not available", g.name, p.uid)
			}
		}
		if remaining+lost < g.desired {
			o.fail("%s had to leave %d pods of %s: %d remain, %d failed", g.name, g.desired, fullName(b), remaining, lost)
		}
		if remaining == o.least(b) {
			o.stats.Full = 1
		}
	}
}
