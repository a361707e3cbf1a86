package simulation

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/ledger"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// seams are what a process's packages are joined by; a breakage replaces one.
type seams struct {
	ledger   fullLedger
	registry decide.Registry
	// registration is the publisher's side of the registry.
	registration publish.Registry
	own          decide.Instances
	clusters     decide.Clusters
	store        publish.Store
	workload     publish.Cluster
	// lists is what informers list by.
	lists func(cache.ListerWatcher) cache.ListerWatcher
}

// fullLedger is what deciders and publishers ask of the ledgers.
type fullLedger interface {
	decide.Ledger
	publish.Ledger
}

func (p *process) seams() seams {
	return seams{
		ledger: yieldingLedger{p.ledgers, p}, registry: p.registry, registration: p.registry, own: p.mesh.Own(),
		clusters: clusters{p}, store: yieldingStore{p.mesh.Own(), p}, workload: reports{p}, lists: workload.ListAfresh,
	}
}

// yieldingLedger lets the scheduler choose in which order moves join a shared
// write, and in which order their callers go on when it has answered.
type yieldingLedger struct {
	*ledger.Ledgers
	process *process
}

func (l yieldingLedger) move(what string, c claim.Claim, move func() (bool, error)) (bool, error) {
	l.process.yield(what + " " + c.ID)
	defer l.process.yield(what + " " + c.ID + " done")
	return move()
}

// Append implements decide.Ledger.
func (l yieldingLedger) Append(ctx context.Context, c claim.Claim, seen uint64) (stands claim.Claim, asked claim.Asked, err error) {
	l.process.witness.asks(ctx, c.ID)
	_, err = l.move("append", c, func() (bool, error) {
		stands, asked, err = l.Ledgers.Append(ctx, c, seen)
		return err == nil, err
	})
	if asked == claim.Repeated {
		l.process.witness.repeats(ctx)
	}
	return stands, asked, err
}

// Grant implements decide.Ledger.
func (l yieldingLedger) Grant(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move("grant", c, func() (bool, error) { return l.Ledgers.Grant(ctx, c) })
}

// Withdraw implements decide.Ledger and publish.Ledger.
func (l yieldingLedger) Withdraw(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move("withdraw", c, func() (bool, error) { return l.Ledgers.Withdraw(ctx, c) })
}

// Release implements publish.Ledger.
func (l yieldingLedger) Release(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move("release", c, func() (bool, error) { return l.Ledgers.Release(ctx, c) })
}

// Drop implements publish.Ledger.
func (l yieldingLedger) Drop(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move("drop", c, func() (bool, error) { return l.Ledgers.Drop(ctx, c) })
}

// yieldingStore lets the scheduler choose which of several goroutines of a
// publisher goes on first, where ticks come at the same time.
type yieldingStore struct {
	*mesh.Own
	process *process
}

// Instances implements publish.Store.
func (s yieldingStore) Instances() []string {
	s.process.yield("look at the configured instances")
	return s.Own.Instances()
}

// clusters lets decide read the mesh, as the controller's command does.
type clusters struct{ *process }

func query(q decide.Query) mesh.Query {
	to := mesh.Query{Namespace: q.Namespace}
	for b := range 2 {
		if service, asked := q.Services[budgetName(b)]; asked {
			to.Budgets = append(to.Budgets, mesh.BudgetRef{Name: budgetName(b), Service: service})
		}
	}
	return to
}

// Snapshot implements decide.Clusters.
func (c clusters) Snapshot(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
	read := c.reads.begin(cluster)
	s := c.mesh.Snapshot(ctx, cluster, query(q))
	c.reads.end(read, s)
	return s
}

// Cached implements decide.Clusters.
func (c clusters) Cached(cluster string, q decide.Query) claim.Snapshot {
	return c.mesh.Cached(cluster, query(q))
}

// Changes implements decide.Clusters.
func (c clusters) Changes() <-chan struct{} { return c.mesh.Changes() }

// reads remembers the snapshots that a process took lately: a decision shares
// them, and rests on the first one of each cluster that began after it had asked.
type reads struct {
	mu    sync.Mutex
	turns uint64
	taken []taken
}

type taken struct {
	turn     uint64
	of       string
	ended    bool
	snapshot claim.Snapshot
}

// readsKept is more than can be taken while a decision waits for one.
const readsKept = 400

func (r *reads) begin(of string) (turn uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turns++
	if len(r.taken) > readsKept {
		r.taken = append(r.taken[:0], r.taken[len(r.taken)/2:]...)
	}
	r.taken = append(r.taken, taken{turn: r.turns, of: of})
	return r.turns
}

func (r *reads) end(turn uint64, s claim.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.taken {
		if r.taken[i].turn == turn {
			r.taken[i].ended, r.taken[i].snapshot = true, s
		}
	}
}

// replace changes what the last read of a cluster has shown.
func (r *reads) replace(of string, s claim.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.taken) - 1; i >= 0; i-- {
		if r.taken[i].of == of && r.taken[i].ended {
			r.taken[i].snapshot = s
			return
		}
	}
}

// turn returns that of the last read that began.
func (r *reads) turn() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.turns
}

// after returns the first read of a cluster that began after a turn.
func (r *reads) after(turn uint64, of string) (claim.Snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.taken {
		if t.turn > turn && t.of == of {
			return t.snapshot, t.ended
		}
	}
	return claim.Snapshot{}, false
}

// observe is told each step of an attempt, by its own goroutine.
func (p *process) observe(ctx context.Context, step string, _ time.Duration) {
	p.yield(step + " of " + requestOf(ctx).name)
	if p.isDead() {
		return
	}
	p.witness.stepped(ctx, step)
	p.witness.goesOn(ctx)
}
