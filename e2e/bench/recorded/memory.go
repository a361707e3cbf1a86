package recorded

import (
	"context"
	"sync"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/mesh"
)

// ledger is a decide.Ledger that keeps no record.
type ledger struct {
	mu       sync.Mutex
	standing claim.Ledger
}

func (l *ledger) Append(_ context.Context, c claim.Claim, seen uint64) (claim.Claim, claim.Asked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	appended, asked := l.standing.Append(c, seen)
	return appended, asked, nil
}

// Ticket implements decide.Ledger.
func (l *ledger) Ticket(string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standing.Ticket
}

func (l *ledger) Grant(_ context.Context, c claim.Claim) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standing.Grant(c.ID), nil
}

func (l *ledger) Withdraw(_ context.Context, c claim.Claim) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standing.Withdraw(c.ID), nil
}

func (l *ledger) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.standing.Claims = nil
}

// instances are the own kvstore's, registered as configured. mirrored receives
// each claim that was shown as granted, which is the last that its decision does.
type instances struct {
	*mesh.Own
	mirrored chan claim.Claim
}

// Instances implements decide.Registry.
func (i *instances) Instances(context.Context) ([]string, error) { return i.Own.Instances(), nil }

// WriteClaims implements decide.Instances.
func (i *instances) WriteClaims(ctx context.Context, instance string, claims []claim.Claim) error {
	err := i.Own.WriteClaims(ctx, instance, claims)
	for _, c := range claims {
		if c.State == claim.Granted {
			i.mirrored <- c
		}
	}
	return err
}

// scopes answers that all clusters take part in every budget.
type scopes []string

func (s scopes) Scope(context.Context, string, string) ([]string, error) { return s, nil }

// clusters lets a Decider read the mesh.
type clusters struct{ mesh *mesh.Mesh }

func query(q decide.Query) mesh.Query {
	to := mesh.Query{Namespace: q.Namespace}
	for name, service := range q.Services {
		to.Budgets = append(to.Budgets, mesh.BudgetRef{Name: name, Service: service})
	}
	return to
}

func (c clusters) Snapshot(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
	return c.mesh.Snapshot(ctx, cluster, query(q))
}

func (c clusters) Cached(cluster string, q decide.Query) claim.Snapshot {
	return c.mesh.Cached(cluster, query(q))
}

func (c clusters) Changes() <-chan struct{} { return c.mesh.Changes() }
