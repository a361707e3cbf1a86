package simulation

import (
	"context"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/publish"
)

// reports answers the publisher's questions about the own cluster, as package
// controller does.
type reports struct{ *process }

var _ publish.Cluster = reports{}

// Parts implements publish.Cluster: the budgets by quorum, their pods from the informer.
func (w reports) Parts(ctx context.Context) ([]publish.Part, error) {
	specs, err := do[[]spec](ctx, w.apiCall("list budgets", func() (any, error) {
		var all []spec
		for b := range w.Budgets {
			if s := w.cluster.spec(b); s != nil {
				all = append(all, *s)
			}
		}
		return all, nil
	}))
	if err != nil {
		return nil, err
	}
	var parts []publish.Part
	for i := range specs {
		parts = append(parts, w.share(&specs[i]))
	}
	return parts, nil
}

// LivePods implements publish.Cluster.
func (w reports) LivePods(ctx context.Context) (map[string]bool, error) {
	return do[map[string]bool](ctx, w.apiCall("list pods", func() (any, error) {
		live := map[string]bool{}
		for _, p := range w.cluster.pods {
			if !p.terminating {
				live[p.uid] = true
			}
		}
		return live, nil
	}))
}

// Ended implements publish.Cluster.
func (w reports) Ended(ctx context.Context, _, name, uid string) (bool, error) {
	return do[bool](ctx, w.apiCall("get pod "+name+" "+uid, func() (any, error) {
		at := slices.IndexFunc(w.cluster.pods, func(p *pod) bool { return p.uid == uid })
		return at < 0 || w.cluster.pods[at].terminating, nil
	}))
}

// SeemsEnded implements publish.Cluster.
func (w reports) SeemsEnded(_ context.Context, _, name, uid string) publish.Sight {
	w.yield("look at pod " + uid)
	w.informer.mu.Lock()
	defer w.informer.mu.Unlock()
	seen, known := w.informer.pods[name]
	switch {
	case w.informer.ended[uid]:
		return publish.Ended
	case !known || seen.pod.uid != uid:
		return publish.Missing
	default:
		return publish.Alive
	}
}

// Claims implements publish.Cluster.
func (w reports) Claims(ctx context.Context) ([]claim.Claim, error) {
	w.yield("look at the claims")
	return w.ledgers.From(ctx, informedLedgers{process: w.process})
}

// InstanceGone implements publish.Cluster.
func (w reports) InstanceGone(ctx context.Context, name string, _ time.Duration) (bool, error) {
	return do[bool](ctx, w.apiCall("is there instance "+name, func() (any, error) {
		return !slices.ContainsFunc(w.cluster.instances, func(i *instance) bool { return i.name == name && !i.gone }), nil
	}))
}
