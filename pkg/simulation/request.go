package simulation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// request is one request to disrupt a pod, from the API server's question to
// its last word.
type request struct {
	*world
	name    string
	process *process
	pod     *pod
	budgets []claim.Covering
	asked   time.Duration
	// entry is the turn of reads when the step under way began.
	entry uint64
	// first holds, by cluster, the claims of the first valid snapshot (S1 of R3).
	first     map[string]map[string]bool
	snapshots []claim.Snapshot
	// order of the claim among all, by when it stood in every instance; 0 before.
	order int
	// granted: the ledger took the grant. permitted: the API server may act on it.
	// answered: it has heard the answer. over: it has done what it will ever do.
	granted, permitted, answered, over bool
	// tell tells the answer to the history.
	tell func(history.Answer)
	// then is what the API server's caller does with a refusal.
	then func(*request, claim.Outcome)
}

type requestKey struct{}

func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// webhookTimeout is after when the API server gives up on a webhook.
const webhookTimeout = 10 * time.Second

// decisionTimeout is the default of decide.
const decisionTimeout = 5 * time.Second

// ask puts a request to a process.
func (p *process) ask(target *pod, then func(*request, claim.Outcome)) {
	p.requests++
	r := &request{
		world: p.world, name: fmt.Sprintf("request %d for %s", p.requests, target.uid), process: p, pod: target, asked: p.now(),
		first: map[string]map[string]bool{}, then: then,
	}
	question := decide.Request{Namespace: namespace, Pod: target.name, UID: target.uid, Reason: "Eviction", Services: map[string]string{}}
	for b := range p.Budgets {
		s := p.informedSpec(b)
		if s == nil || !target.covered(b) || !slices.Contains(s.clusters, p.cluster.name) {
			continue
		}
		question.Budgets = append(question.Budgets, claim.Covering{Name: fullName(b), Clusters: s.clusters, LastKnown: s.lastKnown})
		question.Services[budgetName(b)] = service
	}
	if len(question.Budgets) == 0 {
		// Not covered as far as this process knows; a namespace's first budget.
		return
	}
	r.budgets = question.Budgets
	r.tell = p.recordAsked(r)
	p.stats.Requests++
	p.at(r.asked+webhookTimeout, r.name+" is given up", func() bool {
		if !r.answered {
			r.tell(history.Unknown)
			r.conclude(false)
		}
		return false
	})
	p.say("%s asks %s", r.name, p.name)
	p.ended.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithValue(p.ctx, requestKey{}, r), webhookTimeout)
		defer cancel()
		outcome, refused := p.decider.Refuse(question)
		if !refused {
			outcome = p.decider.Decide(ctx, question)
		}
		took := p.now() - r.asked
		_, _ = do[bool](context.WithoutCancel(ctx), &call{
			process: p, link: toAPI, key: p.name + " answers " + r.name, lost: errLostAPI,
			effect: func() (any, error) {
				p.witness.answered(r, outcome, took)
				return true, nil
			},
		})
	})
}

// conclude is the API server's last word on a permitted request.
func (r *request) conclude(deletes bool) {
	if r.over {
		return
	}
	r.over = true
	if r.permitted {
		r.permitted = false
		r.pod.permits--
		if target := r.target(); deletes && !target.terminating && !target.gone {
			r.say("%s: %s is deleted", r.name, target.uid)
			target.disrupted = true
			r.stats.Disrupted++
			target.cluster.remove(target, true)
		}
	}
}

// target is the pod that the API server deletes.
func (r *request) target() *pod {
	if r.ByName {
		for _, p := range r.pod.cluster.pods {
			if p.name == r.pod.name {
				return p
			}
		}
	}
	return r.pod
}
