package decide

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Ledger makes moves on the durable claims of a namespace (package ledger).
type Ledger interface {
	Append(ctx context.Context, c claim.Claim, seen uint64) (claim.Claim, claim.Asked, error)
	Grant(ctx context.Context, c claim.Claim) (bool, error)
	// Withdraw reports false if the claim was granted meanwhile: its records must stay.
	Withdraw(ctx context.Context, c claim.Claim) (bool, error)
	// Ticket returns the largest ticket of a namespace that is known without a look.
	Ticket(namespace string) uint64
}

// Registry lists the own kvstore's instances by quorum.
type Registry interface {
	Instances(ctx context.Context) ([]string, error)
}

// Instances writes claims and waiters to the own kvstore.
type Instances interface {
	// WriteClaims writes claims that arrived together; an error is everybody's.
	WriteClaims(ctx context.Context, instance string, claims []claim.Claim) error
	DeleteClaim(ctx context.Context, instance string, c claim.Claim) error
	// WriteWaiters tells of who waits for a budget at this replica; none deletes.
	WriteWaiters(ctx context.Context, instance, namespace, budget, replica string, waiters []claim.Waiter) error
}

// Scopes reads which clusters take part in a budget, by quorum.
type Scopes interface {
	Scope(ctx context.Context, namespace, budget string) ([]string, error)
}

// Query names what to read of each cluster: budgets of one namespace.
type Query struct {
	Namespace string
	// Services by budget name.
	Services map[string]string
}

// Clusters reads the stores of the mesh. Snapshots are shared: nobody changes them.
type Clusters interface {
	Snapshot(ctx context.Context, cluster string, q Query) claim.Snapshot
	Cached(cluster string, q Query) claim.Snapshot
	// Changes is closed at the next change of a cached view.
	Changes() <-chan struct{}
}

// Request asks for the disruption of one pod.
type Request struct {
	Namespace, Pod, UID string
	// Reason is by which path, for people.
	Reason string
	// Budgets that cover the pod; all are asked.
	Budgets []claim.Covering
	// Services of the budgets, by budget name without the namespace.
	Services map[string]string
	// DryRun decides without a claim, and reserves nothing.
	DryRun bool
	// Waived, if not empty, says why the pod goes whatever its budgets say: it is
	// only claimed, so that all clusters know.
	Waived string
	// StillFree, if the pod is waived because it is not available, reads it afresh
	// and reports whether that is still so.
	StillFree func(context.Context) (bool, error)
}

// Config of a Decider. All fields are required except those with defaults.
type Config struct {
	Cluster string
	// Replica is this controller's name, unique in the cluster and without slashes.
	Replica  string
	Ledger   Ledger
	Registry Registry
	Own      Instances
	Clusters Clusters
	Scopes   Scopes
	// NewID returns a claim ID that was never used and never will be.
	NewID func() string
	// Timeout is the own deadline of a decision. Default 5 s: half of the
	// webhook's, so that the answer is always ours.
	Timeout time.Duration
	// ReadTimeout bounds one round of reads. Default 2 s.
	ReadTimeout time.Duration
	// Patience is how long a cluster that cannot be read is asked again.
	// Default 1 s.
	Patience time.Duration
	// Observe is told each step and its duration, with the context of the request; optional.
	Observe func(ctx context.Context, step string, took time.Duration)
	// Trace, if not nil, begins the span of a step, or of the read of one cluster within
	// it; what it returns ends it, and is told why the cluster could not be read, if so.
	Trace func(ctx context.Context, step, cluster string) (context.Context, func(problem string))
	// Round is told how many decisions shared a round of reads; optional.
	Round func(decisions int)
	// Random returns a number in [0, 1), for pauses that break a rhythm. Default
	// rand.Float64.
	Random func() float64
	// Log receives what must not happen; optional.
	Log logr.Logger
}

// Decider answers requests. It is safe for concurrent use.
type Decider struct {
	config Config
	shared shared
	// known holds the instances that the registry named last: a hint.
	known atomic.Pointer[[]string]
	// background counts what outlives its request; ending stops the part of it that waits.
	background sync.WaitGroup
	ending     context.Context
	end        context.CancelFunc

	mu          sync.Mutex
	undecidable map[string]spell
	// claiming holds the attempts under way by pod UID: the ticket that each has kept, 0 if none.
	claiming map[string]uint64
	// seen is the largest ticket that was ever seen, by namespace: a peer that has drawn the last one ends the order
	// of arrival where it takes part, and nowhere else.
	seen  map[string]uint64
	turns *claim.Turns
	// telling holds the budgets whose waiters the mesh is told of.
	telling map[string]*telling
	closed  bool
}

// New checks the configuration.
func New(config Config) (*Decider, error) {
	if config.Cluster == "" || config.Replica == "" || config.Ledger == nil || config.Registry == nil || config.Own == nil || config.Clusters == nil || config.Scopes == nil || config.NewID == nil {
		return nil, errors.New("decide: cluster, replica, ledger, registry, own, clusters, scopes and newID are required")
	}
	config.Timeout = cmp.Or(config.Timeout, 5*time.Second)
	config.ReadTimeout = cmp.Or(config.ReadTimeout, 2*time.Second)
	config.Patience = cmp.Or(config.Patience, time.Second)
	if config.Observe == nil {
		config.Observe = func(context.Context, string, time.Duration) {}
	}
	if config.Random == nil {
		config.Random = rand.Float64
	}
	if config.Round == nil {
		config.Round = func(int) {}
	}
	d := &Decider{
		config: config, shared: newShared(config), undecidable: map[string]spell{}, claiming: map[string]uint64{}, seen: map[string]uint64{},
		turns: claim.NewTurns(config.Random), telling: map[string]*telling{},
	}
	d.ending, d.end = context.WithCancel(context.Background())
	return d, nil
}

// Close blocks until every clean-up has ended, and begins no more: what is
// left of a claim is then tidied by the publisher (R7, R11).
func (d *Decider) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.background.Wait()
}

// Decide answers a request within the configured timeout. Ask Refuse first:
// what the cached view refuses costs nothing.
func (d *Decider) Decide(ctx context.Context, r Request) claim.Outcome {
	ctx, cancel := context.WithTimeout(ctx, d.config.Timeout)
	defer cancel()
	switch {
	case r.DryRun && r.Waived != "":
		return claim.Outcome{Allowed: true, Waived: true, Budget: r.Budgets[0].Name, Sentence: r.Waived}
	case r.DryRun:
		return d.preview(ctx, r)
	}
	ticket := d.keptTicket(r)
	defer d.claim(r.UID, ticket)()
	o := d.run(ctx, r, ticket)
	switch {
	case o.Allowed:
		d.served(r, o)
	case r.Waived == "":
		d.refused(r, o, nil, true)
	}
	return o
}

// claim notes an attempt until the returned function is called.
func (d *Decider) claim(uid string, ticket uint64) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claiming[uid] = ticket
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		// Another request for the pod may still run; its claim is the same one (R8).
		delete(d.claiming, uid)
	}
}

// preview decides from fresh reads, without a claim: it may be outdated at
// once, so it serves dry-runs only.
func (d *Decider) preview(ctx context.Context, r Request) claim.Outcome {
	o := judge(r, d.readAll(ctx, r.clusters(d.config.Cluster), r.query()))
	o.Allowed = o.Decision.Verdict == budget.Allow
	return o
}

// judge asks all budgets as if every standing claim went first.
func judge(r Request, snapshots []claim.Snapshot) claim.Outcome {
	return worst(judgeEach(r, snapshots, claim.Standing(snapshots)))
}

func judgeEach(r Request, snapshots []claim.Snapshot, standing map[string]budget.Claim) []claim.Outcome {
	all := make([]claim.Outcome, 0, len(r.Budgets))
	for _, b := range r.Budgets {
		decision := budget.Decide(claim.Question(b, r.Pod, r.UID, snapshots, standing))
		all = append(all, claim.Judged(b.Name, decision))
	}
	return all
}

func worst(all []claim.Outcome) claim.Outcome {
	var worst claim.Outcome
	for _, o := range all {
		if worst.Budget == "" || claim.Severer(o, worst) {
			worst = o
		}
	}
	return worst
}

// run performs the steps of one attempt. Their order is the protocol's, not ours.
func (d *Decider) run(ctx context.Context, r Request, ticket uint64) claim.Outcome {
	deadline, _ := ctx.Deadline()
	a := claim.Begin(claim.Request{
		Claim: claim.Claim{
			ID: d.config.NewID(), UID: r.UID, Namespace: r.Namespace, Pod: r.Pod,
			Budgets: names(r.Budgets), Cluster: d.config.Cluster, Reason: r.Reason, Ticket: ticket,
		},
		Budgets: r.Budgets,
		// Time to withdraw, or to make the grant durable, within the deadline.
		Deadline: deadline.Add(-d.config.Timeout / 5),
		Patience: time.Now().Add(d.config.Patience),
		Waived:   r.Waived,
		Confirm:  r.StillFree != nil,
	})
	for {
		step := a.Next()
		if step == claim.Answer {
			return a.Outcome()
		}
		if ctx.Err() != nil && step != claim.WithdrawClaim {
			a.Expired()
			continue
		}
		start := time.Now()
		stepCtx, end := d.trace(ctx, step.String(), "")
		d.perform(stepCtx, step, a, r)
		end("")
		d.config.Observe(ctx, step.String(), time.Since(start))
	}
}

// trace begins a span if anybody wants one.
func (d *Decider) trace(ctx context.Context, step, cluster string) (context.Context, func(problem string)) {
	if d.config.Trace == nil {
		return ctx, untraced
	}
	return d.config.Trace(ctx, step, cluster)
}

func untraced(string) {}

func (d *Decider) perform(ctx context.Context, step claim.Step, a *claim.Attempt, r Request) {
	switch step {
	case claim.AppendClaim:
		a.Appended(d.config.Ledger.Append(ctx, a.Claim(), d.seenTicket(r.Namespace)))
	case claim.ReadRegistry:
		d.announce(ctx, a)
	case claim.WriteInstances:
		a.Written(d.write(ctx, a.Unwritten(), a.Claim()))
	case claim.ReadClusters:
		snapshots := d.readClaimed(ctx, a.Clusters(), r)
		d.sawTicket(r.Namespace, claim.MaxTicket(snapshots))
		a.Read(snapshots, time.Now())
	case claim.AwaitChange:
		d.awaitChange(ctx)
		a.Changed()
	case claim.GrantClaim:
		granted, err := d.config.Ledger.Grant(ctx, a.Claim())
		a.Granted(granted && err == nil)
		switch {
		case err != nil:
			// Left pending, it would keep the pod from being asked for again for
			// claim.PendingTimeout (R8). If the grant took effect after all, the ledger keeps it.
			d.withdraw(ctx, a.Claim())
		case granted:
			d.mirror(ctx, a.Claim())
		}
	case claim.ConfirmWaiver:
		still, err := r.StillFree(ctx)
		a.Confirmed(still && err == nil)
	case claim.WithdrawClaim:
		d.withdraw(ctx, a.Claim())
		a.Withdrawn()
	}
}

// mirror shows the grant in the stores, after the answer if need be: a claim
// shown as pending counts as well, it only makes others wait (R6).
func (d *Decider) mirror(ctx context.Context, c claim.Claim) {
	d.later(ctx, func(ctx context.Context) {
		// One that registers now lists the ledger; should it show the claim as
		// pending for a while, that counts as well.
		if known := d.known.Load(); known != nil {
			d.write(ctx, *known, c)
		}
	})
}

// withdraw takes the claim back, ledger first (R7). What fails is left to the
// publisher, which withdraws old claims and removes what the ledger lacks.
func (d *Decider) withdraw(ctx context.Context, c claim.Claim) {
	d.later(ctx, func(ctx context.Context) {
		if withdrawn, err := d.config.Ledger.Withdraw(ctx, c); err != nil || !withdrawn {
			return
		}
		if instances, err := d.registered(ctx); err == nil {
			d.each(ctx, instances, func(ctx context.Context, i string) error { return d.config.Own.DeleteClaim(ctx, i, c) })
		}
	})
}

// later runs a clean-up that the caller need not wait for.
func (d *Decider) later(ctx context.Context, clean func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.config.Timeout)
	d.background.Go(func() {
		defer cancel()
		clean(ctx)
	})
}

func (d *Decider) sawTicket(namespace string, ticket uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[namespace] = max(d.seen[namespace], ticket)
}

func (d *Decider) seenTicket(namespace string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen[namespace]
}

func (r Request) query() Query { return Query{Namespace: r.Namespace, Services: r.Services} }

func (r Request) clusters(own string) []string {
	all := []string{own}
	for _, b := range r.Budgets {
		all = append(all, b.Clusters...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func names(budgets []claim.Covering) []string {
	all := make([]string, 0, len(budgets))
	for _, b := range budgets {
		all = append(all, b.Name)
	}
	return all
}

// Undecided is the outcome of a request that could not even be put.
func Undecided(format string, args ...any) claim.Outcome {
	return claim.Outcome{Undecidable: true, Sentence: fmt.Sprintf(format, args...)}
}
