package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// instanceLoop brings one instance into service and keeps it in step. Any
// doubt begins a new incarnation (R1).
func (p *Publisher) instanceLoop(ctx context.Context, name string, state *instanceState) {
	log := p.config.Log.WithValues("instance", name)
	r := claim.NewRestore(p.config.NewID(name))
	for ctx.Err() == nil {
		incarnation := wire.Incarnation{ID: r.Incarnation(), Controller: p.config.Controller}
		err := p.restore(ctx, name, state, r, incarnation)
		if err == nil {
			log.Info("instance of the own kvstore in service", "incarnation", incarnation.ID)
			p.start()
			p.report(state, nil)
			err = p.serve(ctx, name, state, incarnation)
		}
		if ctx.Err() != nil {
			return
		}
		if p.report(state, err) {
			log.Info("instance of the own kvstore not in service", "cause", err.Error())
		}
		wait(ctx, retryInterval)
		r.Doubt(p.config.NewID(name))
	}
}

// report takes note of an instance's state and tells whether it is a new problem.
func (p *Publisher) report(state *instanceState, err error) bool {
	p.mu.Lock()
	news := err != nil && (state.err == nil || state.err.Error() != err.Error())
	changed := news || err == nil && !state.serving
	state.serving, state.err = err == nil, err
	p.mu.Unlock()
	if changed {
		p.config.Changed()
	}
	return news
}

// restore performs rule R1, step by step.
func (p *Publisher) restore(ctx context.Context, name string, state *instanceState, r *claim.Restore, incarnation wire.Incarnation) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	var claims []mesh.Change
	var generation uint64
	for {
		var err error
		switch r.Next() {
		case claim.PutIncarnation:
			err = p.config.Store.PutIncarnation(ctx, name, incarnation)
		case claim.Register:
			err = p.config.Registry.Add(ctx, name)
		case claim.ListDurable:
			claims, err = p.list(ctx, name, state)
		case claim.WriteRecords:
			generation, err = p.writeAll(ctx, name, state, incarnation, claims)
		case claim.PutMarker:
			err = p.config.Store.PutMarker(ctx, name, incarnation)
		default:
			p.shown(state, generation)
			return nil
		}
		if err != nil {
			return err
		}
		r.Done()
	}
}

// list reads the claims that the instance shows, then what is true, and returns
// how the claims differ. The order of these reads matters (R11). Records that
// differ become dirty; when they are read does not matter, since only this
// publisher writes them from its incarnation on.
func (p *Publisher) list(ctx context.Context, name string, state *instanceState) ([]mesh.Change, error) {
	stored, err := p.config.Store.StoredClaims(ctx, name)
	if err != nil {
		return nil, err
	}
	before := p.verifiedPods()
	live, err := p.config.Workload.LivePods(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	since := p.lastRemoval()
	parts, err := p.config.Workload.Parts(ctx)
	if err != nil {
		return nil, err
	}
	p.adopt(parts, since)
	durable, err := p.config.Ledger.All(ctx)
	if err != nil {
		return nil, err
	}
	p.verify(before, live)
	p.doubtAll(state)
	if err := p.config.Store.Stored(ctx, name, func(page map[string]string) { p.compareRecords(page, state) }); err != nil {
		return nil, err
	}
	return p.compareClaims(stored, durable)
}

// compareClaims returns what brings an instance's claims in line with the ledger (R11).
func (p *Publisher) compareClaims(stored, durable []claim.Claim) ([]mesh.Change, error) {
	var changes []mesh.Change
	remove, write := claim.Compare(stored, durable)
	for _, c := range stored {
		if slices.Contains(remove, c.ID) {
			changes = append(changes, mesh.Change{Key: p.claimKey(c)})
		}
	}
	for _, c := range write {
		value, err := wire.Marshal(mesh.ClaimRecord(c))
		if err != nil {
			return nil, err
		}
		changes = append(changes, mesh.Change{Key: p.claimKey(c), Value: string(value)})
	}
	return changes, nil
}

// doubtAll makes every record dirty.
func (p *Publisher) doubtAll(state *instanceState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state.dirty = map[ref]struct{}{}
	for id, e := range p.parts {
		state.dirty[ref{part: id}] = struct{}{}
		for i := range e.Pods {
			state.dirty[ref{id, e.Pods[i].UID}] = struct{}{}
		}
	}
}

// compareRecords takes off what is dirty the records that the instance shows
// as they are to be shown, and adds those that it must not show.
func (p *Publisher) compareRecords(page map[string]string, state *instanceState) {
	refs := make(map[string]ref, len(page))
	for key := range page {
		if k, err := wire.ParseKey(p.config.Cluster, key); err == nil && (k.Kind == wire.KindBudget || k.Kind == wire.KindPod) {
			refs[key] = ref{k.Namespace + "/" + k.Budget, k.ID}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.changes(slices.Collect(maps.Values(refs))) {
		if c.Value == page[c.Key] {
			delete(state.dirty, refs[c.Key])
		} else {
			state.dirty[refs[c.Key]] = struct{}{}
		}
	}
}

// writeAll writes claims and all that is dirty, and returns the generation that the instance then shows.
func (p *Publisher) writeAll(ctx context.Context, name string, state *instanceState, incarnation wire.Incarnation, claims []mesh.Change) (uint64, error) {
	for {
		changes, generation, more := p.takeDirty(state)
		if err := p.config.Store.Publish(ctx, name, incarnation, append(claims, changes...)); err != nil {
			return 0, err
		}
		if !more {
			return generation, nil
		}
		claims = nil
	}
}

func (p *Publisher) claimKey(c claim.Claim) string {
	return wire.Key{Kind: wire.KindClaim, Cluster: p.config.Cluster, Namespace: c.Namespace, ID: c.ID}.String()
}

func (p *Publisher) verifiedPods() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.verified)
}

// verify takes a quorum list in: live pods may be shown as available, and
// those that were verified before the list began only if it has them.
func (p *Publisher) verify(before, live map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.verified, func(uid string, _ bool) bool { return before[uid] })
	for uid := range live {
		if _, ended := p.ended[uid]; !ended {
			p.verified[uid] = true
		}
	}
	p.listed = true
	for id, e := range p.parts {
		p.show(id, p.exhibit(e.Part))
	}
}

// serve keeps an instance in step until something raises a doubt.
func (p *Publisher) serve(ctx context.Context, name string, state *instanceState, incarnation wire.Incarnation) error {
	due := time.Now().Add(aliveInterval)
	alive := time.NewTimer(aliveInterval)
	defer alive.Stop()
	for {
		more, err := p.flush(ctx, name, state, incarnation)
		if err != nil {
			return err
		}
		if more {
			// The marker is kept alive in between.
			state.poke()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-state.wake:
		case <-alive.C:
		}
		// Not only if the timer has won: of two that are ready select takes any.
		if time.Now().Before(due) {
			continue
		}
		if err := p.alive(ctx, name, incarnation); err != nil {
			return err
		}
		due = time.Now().Add(aliveInterval)
		alive.Reset(aliveInterval)
	}
}

func (p *Publisher) alive(ctx context.Context, name string, incarnation wire.Incarnation) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return p.config.Store.Alive(ctx, name, incarnation)
}

// flushSize is how many records one flush writes: far fewer than take ioTimeout.
const flushSize = 2000

// takeDirty returns the next changes to write, the generation that stands
// once they and what is left are written, and whether anything is left.
func (p *Publisher) takeDirty(state *instanceState) (changes []mesh.Change, generation uint64, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var refs []ref
	for r := range state.dirty {
		if len(refs) == flushSize {
			break
		}
		refs = append(refs, r)
		delete(state.dirty, r)
	}
	return p.changes(refs), p.generation, len(state.dirty) > 0
}

// flush writes what is dirty, and reports whether some is left.
func (p *Publisher) flush(ctx context.Context, name string, state *instanceState, incarnation wire.Incarnation) (more bool, err error) {
	changes, generation, more := p.takeDirty(state)
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	switch {
	case len(changes) > 0:
		err = p.config.Store.Publish(ctx, name, incarnation, changes)
	case !p.hasShown(state, generation):
		err = p.config.Store.Alive(ctx, name, incarnation)
	}
	if err == nil && !more {
		p.shown(state, generation)
	}
	return more, err
}

func (p *Publisher) hasShown(state *instanceState, generation uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return state.shown >= generation
}

func (p *Publisher) shown(state *instanceState, generation uint64) {
	p.mu.Lock()
	state.shown = max(state.shown, generation)
	p.mu.Unlock()
}
