package recorded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/mesh"
)

// site is the first cluster's Mesh and Decider, as a controller wires them.
type site struct {
	mesh    *mesh.Mesh
	decider *decide.Decider
	ledger  *ledger
	own     *instances

	dir  string
	stop context.CancelFunc
	done chan error
	// took is how long it took until all views stood.
	took time.Duration
}

// openSite begins to follow the clusters of a book and returns when all views stand.
func (s *stores) openSite(ctx context.Context, b *book) (*site, error) {
	n := len(b.records)
	dir, err := os.MkdirTemp("", "meshpdb-bench-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	at := &site{dir: dir, ledger: &ledger{}, done: make(chan error, 1)}
	peers := filepath.Join(dir, "clustermesh")
	for i := 1; i < n; i++ {
		if err := s.sandbox.Clusters[storeOf(i)].Instances[0].WritePeerFile(peers, nameOf(i)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	own := filepath.Join(s.sandbox.Clusters[0].KVStoreDir, "etcd.yaml")
	at.mesh, err = mesh.New(mesh.Config{Cluster: nameOf(0), Peers: peers, OwnKVStore: own, Log: logr.Discard()})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if at.decider, err = at.newDecider(b.view); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	// Not the caller's: close ends it, in order.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	at.stop = stop
	start := time.Now()
	go func() { at.done <- at.mesh.Run(running) }()
	if err := at.await(ctx, n); err != nil {
		return nil, errors.Join(err, at.close())
	}
	at.took = time.Since(start)
	return at, nil
}

func (at *site) newDecider(view []string) (*decide.Decider, error) {
	at.own = &instances{Own: at.mesh.Own(), mirrored: make(chan claim.Claim, 1)}
	serial := 0
	return decide.New(decide.Config{
		Cluster: nameOf(0), Replica: "bench", Ledger: at.ledger, Registry: at.own, Own: at.own, Clusters: clusters{at.mesh}, Scopes: scopes(view),
		// One request after the other, so that nobody else counts.
		NewID: func() string { serial++; return fmt.Sprintf("claim-%d", serial) },
	})
}

// await polls until all views stand.
func (at *site) await(ctx context.Context, n int) error {
	const patience = 2 * time.Minute
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		standing := 0
		var last error
		for _, r := range at.mesh.Reachable() {
			if r.Err == nil {
				standing++
			} else {
				last = fmt.Errorf("view of %s: %w", r.Cluster, r.Err)
			}
		}
		if standing == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("wait for views: %d of %d stand after %s: %w", standing, n, patience, last)
		case <-tick.C:
		}
	}
}

// close ends everything and waits for it.
func (at *site) close() error {
	at.decider.Close()
	at.stop()
	return errors.Join(<-at.done, os.RemoveAll(at.dir))
}

// grant lets one disruption be decided in full, and then takes its claim away
// again, so that the next one meets the same state.
func (at *site) grant(ctx context.Context, r decide.Request) (time.Duration, error) {
	start := time.Now()
	outcome, refused := at.decider.Refuse(r) // as the webhook does first
	if !refused {
		outcome = at.decider.Decide(ctx, r)
	}
	took := time.Since(start)
	if !outcome.Allowed {
		return 0, fmt.Errorf("decide %s: refused: %s", r.Pod, outcome.Sentence)
	}
	select {
	case c := <-at.own.mirrored:
		at.ledger.clear()
		for _, i := range at.own.Own.Instances() {
			if err := at.own.DeleteClaim(ctx, i, c); err != nil {
				return 0, err
			}
		}
		return took, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// preview lets one disruption be decided from fresh reads, without a claim.
func (at *site) preview(ctx context.Context, r decide.Request) (time.Duration, error) {
	r.DryRun = true
	start := time.Now()
	outcome := at.decider.Decide(ctx, r)
	took := time.Since(start)
	if !outcome.Allowed {
		return 0, fmt.Errorf("preview %s: refused: %s", r.Pod, outcome.Sentence)
	}
	return took, nil
}

// refuse lets one disruption be refused from the cached view.
func (at *site) refuse(r decide.Request) (time.Duration, error) {
	start := time.Now()
	outcome, refused := at.decider.Refuse(r)
	took := time.Since(start)
	if !refused {
		return 0, fmt.Errorf("refuse %s: not refused: %s", r.Pod, outcome.Sentence)
	}
	return took, nil
}

// request asks for the own cluster's first pod of a budget.
func (b *book) request(namespace, budget string) decide.Request {
	return decide.Request{
		Namespace: namespace, Pod: podName(budget, 0), UID: uidOf(0, budget, 0), Reason: "Eviction",
		Budgets:  []claim.Covering{{Name: namespace + "/" + budget, Clusters: b.view}},
		Services: map[string]string{budget: budget},
	}
}

// decideQuery is what the request's decision reads.
func decideQuery(r decide.Request) decide.Query {
	return decide.Query{Namespace: r.Namespace, Services: r.Services}
}
