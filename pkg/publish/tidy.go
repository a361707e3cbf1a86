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
	compare := time.NewTicker(compareInterval)
	defer compare.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.tidy:
		case <-tick.C:
			tidy.deregister(ctx)
		case <-compare.C:
			tidy.compare(ctx)
			tidy.forget()
		}
		if claims, err := p.config.Workload.Claims(ctx); err == nil {
			tidy.reap(ctx, claims)
			tidy.bury(ctx, claims)
		}
	}
}

type tidier struct {
	*Publisher
	reaper     *claim.Reaper
	tombstones *claim.Tombstones
	// generation in which a claim's pod is shown as ended.
	generation map[string]uint64
	// missing is since when a registered instance is not configured.
	missing map[string]time.Time
}

// reap withdraws pending claims that nobody decided (R7) and releases granted
// ones that came to nothing (R10).
func (t *tidier) reap(ctx context.Context, claims []claim.Claim) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	withdraw, release := t.reaper.Observe(claims, time.Now())
	for _, c := range withdraw {
		t.end(ctx, c, "withdrew a claim that nobody decided", t.config.Ledger.Withdraw)
	}
	for _, c := range release {
		// Quorum, after the time-out: a stale look could release a pod that is already going (X22).
		ended, err := t.config.Workload.Ended(ctx, c.Namespace, c.Pod, c.UID)
		if err != nil || ended {
			continue
		}
		t.end(ctx, c, "released a grant that came to nothing", t.config.Ledger.Release)
	}
}

// end removes a claim from the ledger and then, if that is acknowledged, from
// the stores. It reports whether the claim is gone from the ledger.
func (t *tidier) end(ctx context.Context, c claim.Claim, what string, move func(context.Context, claim.Claim) (bool, error)) bool {
	ended, err := move(ctx, c)
	switch {
	case err != nil:
		t.config.Log.Error(err, "end claim", "claim", c.ID, "pod", c.Pod)
		return false
	case ended:
		t.config.Log.Info(what, "claim", c.ID, "pod", c.Pod)
		t.erase(ctx, c)
	}
	return true
}

// bury drops the claims of pods whose end every instance shows (R9).
func (t *tidier) bury(ctx context.Context, claims []claim.Claim) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	var ended []claim.Claim
	for _, c := range claims {
		if c.State == claim.Granted && t.hasEnded(ctx, c) {
			ended = append(ended, c)
		}
	}
	if len(ended) == 0 {
		return
	}
	// After the ends were confirmed: an instance that registers later lists them.
	registered, err := t.config.Registry.Instances(ctx)
	if err != nil {
		return
	}
	shown := t.shownBy()
	for _, c := range ended {
		t.tombstones.Registered(c.ID, registered)
		for name, generation := range shown {
			if generation >= t.generation[c.ID] {
				t.tombstones.Shown(c.ID, name)
			}
		}
	}
	for _, id := range t.tombstones.Droppable() {
		i := slices.IndexFunc(ended, func(c claim.Claim) bool { return c.ID == id })
		if i >= 0 && !t.end(ctx, ended[i], "dropped the claim of a pod that has ended", t.config.Ledger.Drop) {
			continue
		}
		t.tombstones.Forget(id)
		delete(t.generation, id)
	}
}

// hasEnded confirms by a quorum read what the informer shows, once a claim.
func (t *tidier) hasEnded(ctx context.Context, c claim.Claim) bool {
	if _, known := t.generation[c.ID]; known {
		return true
	}
	if !t.config.Workload.SeemsEnded(ctx, c.Namespace, c.Pod, c.UID) {
		return false
	}
	if ended, err := t.config.Workload.Ended(ctx, c.Namespace, c.Pod, c.UID); err != nil || !ended {
		return false
	}
	t.tombstones.Ended(c.ID)
	t.generation[c.ID] = t.markEnded(c.UID)
	return true
}

// shownBy returns the generation that each instance in service shows.
func (p *Publisher) shownBy() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := map[string]uint64{}
	for name, state := range p.instances {
		if state.serving {
			shown[name] = state.shown
		}
	}
	return shown
}

// erase deletes a claim that the ledger no longer holds from all instances;
// what fails is found by compare.
func (t *tidier) erase(ctx context.Context, c claim.Claim) {
	var deletions sync.WaitGroup
	for _, name := range t.config.Store.Instances() {
		deletions.Go(func() {
			if err := t.config.Store.DeleteClaim(ctx, name, c); err != nil {
				t.config.Log.V(1).Info("claim not deleted from instance yet", "claim", c.ID, "instance", name, "cause", err.Error())
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
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	registered, err := t.config.Registry.Instances(ctx)
	if err != nil {
		return
	}
	configured := t.config.Store.Instances()
	for _, name := range registered {
		if len(configured) == 0 || slices.Contains(configured, name) {
			delete(t.missing, name)
			continue
		}
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
