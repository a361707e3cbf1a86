package publish

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// tidyLoop looks after claims that have done their work or were left behind.
func (p *Publisher) tidyLoop(ctx context.Context) {
	tidy := tidier{
		Publisher:  p,
		reaper:     claim.NewReaper(claim.PendingTimeout, claim.GrantTimeout),
		tombstones: claim.NewTombstones(),
		generation: map[string]uint64{},
		missing:    map[string]time.Time{},
	}
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	compared := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if claims, err := p.config.Workload.Claims(ctx); err == nil {
			tidy.reap(ctx, claims)
			tidy.bury(ctx, claims)
		}
		tidy.deregister(ctx)
		if time.Since(compared) >= compareInterval {
			compared = time.Now()
			tidy.compare(ctx)
			tidy.forget()
		}
	}
}

type tidier struct {
	*Publisher
	reaper     *claim.Reaper
	tombstones *claim.Tombstones
	// generation in which a claim's pod is shown as ended.
	generation map[string]uint64
	// dropped is when claims were dropped last.
	dropped time.Time
	// missing is since when a registered instance is not configured.
	missing map[string]time.Time
	// agreed are the configured instances that the registry was in line with when
	// it was looked at last; nil if it was not.
	agreed []string
	looked time.Time
}

// reap releases granted claims that came to nothing (R10); see Reap for pending ones.
func (t *tidier) reap(ctx context.Context, claims []claim.Claim) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	_, release := t.reaper.Observe(claims, time.Now())
	t.end(ctx, slices.DeleteFunc(release, func(c claim.Claim) bool {
		// Quorum, after the time-out: a stale look could release a pod that is already going (X22).
		ended, err := t.config.Workload.Ended(ctx, c.Namespace, c.Pod, c.UID)
		return err != nil || ended
	}), "released a grant that came to nothing", t.config.Ledger.Release)
}

// end removes claims from the ledger and then, as far as that is acknowledged,
// from the stores. It returns those that are gone from the ledger. All at once,
// so that they share a durable write.
func (t *tidier) end(ctx context.Context, claims []claim.Claim, what string, move func(context.Context, claim.Claim) (bool, error)) []claim.Claim {
	var mu sync.Mutex
	var gone, ended []claim.Claim
	var moves sync.WaitGroup
	for _, c := range claims {
		moves.Go(func() {
			moved, err := move(ctx, c)
			if err != nil {
				t.config.Log.Error(err, "end claim", "claim", c.ID, "pod", c.Pod)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, c)
			if moved {
				t.config.Log.Info(what, "claim", c.ID, "pod", c.Pod)
				ended = append(ended, c)
			}
		})
	}
	moves.Wait()
	if len(ended) > 0 {
		t.erase(ctx, ended)
	}
	return gone
}

// bury drops the claims of pods whose end every instance shows (R9).
func (t *tidier) bury(ctx context.Context, claims []claim.Claim) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	for id := range t.generation {
		if !slices.ContainsFunc(claims, func(c claim.Claim) bool { return c.ID == id }) {
			// Dropped by a write whose answer was lost.
			t.tombstones.Forget(id)
			delete(t.generation, id)
		}
	}
	var ended []claim.Claim
	for _, c := range claims {
		if c.State == claim.Granted && t.hasEnded(ctx, c) {
			ended = append(ended, c)
		}
	}
	if time.Since(t.dropped) < dropInterval {
		return
	}
	shown := t.shownBy()
	// What is not shown yet need not be looked up in the registry.
	if !slices.ContainsFunc(ended, func(c claim.Claim) bool { return shown.everywhere(t.generation[c.ID]) }) {
		return
	}
	// After the ends were confirmed: an instance that registers later lists them.
	registered, err := t.config.Registry.Instances(ctx)
	if err != nil {
		return
	}
	for _, c := range ended {
		t.tombstones.Registered(c.ID, registered)
		for name, generation := range shown {
			if generation >= t.generation[c.ID] {
				t.tombstones.Shown(c.ID, name)
			}
		}
	}
	droppable := t.tombstones.Droppable()
	drop := slices.DeleteFunc(ended, func(c claim.Claim) bool { return !slices.Contains(droppable, c.ID) })
	if len(drop) > 0 {
		t.dropped = time.Now()
	}
	for _, c := range t.end(ctx, drop, "dropped the claim of a pod that has ended", t.config.Ledger.Drop) {
		t.tombstones.Forget(c.ID)
		delete(t.generation, c.ID)
	}
}

// hasEnded reports whether a pod is terminating or gone. That the informer has seen
// it end is proof enough, for that is never taken back; that it
// does not show it at all may mean that it is behind, and is confirmed by a quorum read.
func (t *tidier) hasEnded(ctx context.Context, c claim.Claim) bool {
	if _, known := t.generation[c.ID]; known {
		return true
	}
	switch t.config.Workload.SeemsEnded(ctx, c.Namespace, c.Pod, c.UID) {
	case Ended:
	case Missing:
		if ended, err := t.config.Workload.Ended(ctx, c.Namespace, c.Pod, c.UID); err != nil || !ended {
			return false
		}
	default:
		return false
	}
	t.tombstones.Ended(c.ID)
	t.generation[c.ID] = t.markEnded(c.UID)
	return true
}

// shown is the generation that each instance in service shows.
type shown map[string]uint64

// everywhere reports whether all of them show a generation.
func (s shown) everywhere(generation uint64) bool {
	for _, shown := range s {
		if shown < generation {
			return false
		}
	}
	return len(s) > 0
}

func (p *Publisher) shownBy() shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := shown{}
	for name, state := range p.instances {
		if state.serving {
			all[name] = state.shown
		}
	}
	return all
}

// erase deletes claims that the ledger no longer holds from all instances;
// what fails is found by compare.
func (t *tidier) erase(ctx context.Context, claims []claim.Claim) {
	var deletions sync.WaitGroup
	for _, name := range t.config.Store.Instances() {
		deletions.Go(func() {
			if err := t.config.Store.DeleteClaims(ctx, name, claims); err != nil {
				t.config.Log.V(1).Info("claims not deleted from instance yet", "claims", len(claims), "instance", name, "cause", err.Error())
			}
		})
	}
	deletions.Wait()
}

// compare is rule R11: the store's claims first, the ledger second.
func (t *tidier) compare(ctx context.Context) {
	for _, name := range t.config.Store.Instances() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		stored, err := t.config.Store.StoredClaims(ctx, name)
		if err == nil {
			var durable []claim.Claim
			if durable, err = t.config.Ledger.All(ctx); err == nil {
				remove, write := claim.Compare(stored, durable)
				for _, c := range stored {
					if slices.Contains(remove, c.ID) {
						err = t.config.Store.DeleteClaim(ctx, name, c)
					}
				}
				for _, c := range write {
					err = t.config.Store.WriteClaim(ctx, name, c)
				}
			}
		}
		cancel()
		if err != nil {
			t.config.Log.V(1).Info("compare claims", "instance", name, "cause", err.Error())
		}
	}
}

// deregister removes instances that nobody can read any more. One that is
// merely unreachable stays: somebody else may read it (H07).
func (t *tidier) deregister(ctx context.Context) {
	configured := t.config.Store.Instances()
	if t.agreed != nil && slices.Equal(t.agreed, configured) && time.Since(t.looked) < deregisterInterval {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	registered, err := t.config.Registry.Instances(ctx)
	if err != nil {
		return
	}
	t.looked, t.agreed = time.Now(), configured
	for _, name := range registered {
		if len(configured) == 0 || slices.Contains(configured, name) {
			delete(t.missing, name)
			continue
		}
		// Until it is gone, grants of this cluster fail: look again soon.
		t.agreed = nil
		if t.missing[name].IsZero() {
			t.missing[name] = time.Now()
		}
		if !t.unreadable(ctx, name) {
			continue
		}
		if err := t.config.Registry.Remove(ctx, name); err == nil {
			t.config.Log.Info("instance of the own kvstore is gone", "instance", name)
		}
	}
}

// unreadable reports whether nobody believes an instance any more: its marker
// was taken off, or the instance is gone.
func (t *tidier) unreadable(ctx context.Context, name string) bool {
	// One that is gone does not answer; the rest must still have its time.
	retireCtx, cancel := context.WithTimeout(ctx, ioTimeout/5)
	defer cancel()
	if retired, err := t.config.Store.Retire(retireCtx, name); err == nil && retired {
		return true
	}
	gone, err := t.config.Workload.InstanceGone(ctx, name, time.Since(t.missing[name]))
	return err == nil && gone
}

// forget drops the memory of pods that ended long ago.
func (t *tidier) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for uid, since := range t.ended {
		if time.Since(since) > endedMemory {
			delete(t.ended, uid)
			delete(t.verified, uid)
		}
	}
}
