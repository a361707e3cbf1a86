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
	r := claim.NewRestore(p.config.NewID())
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
		r.Doubt(p.config.NewID())
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
	var changes []mesh.Change
	var generation uint64
	for {
		var err error
		switch r.Next() {
		case claim.PutIncarnation:
			err = p.config.Store.PutIncarnation(ctx, name, incarnation)
		case claim.Register:
			err = p.config.Registry.Add(ctx, name)
		case claim.ListDurable:
			changes, generation, err = p.list(ctx, name, state)
		case claim.WriteRecords:
			err = p.config.Store.Publish(ctx, name, incarnation, changes)
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

// list reads what the instance shows, then what is true, and returns the
// difference. The order of the reads matters (R11).
func (p *Publisher) list(ctx context.Context, name string, state *instanceState) ([]mesh.Change, uint64, error) {
	stored, storedClaims, err := p.config.Store.Stored(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	before := p.verifiedPods()
	live, err := p.config.Workload.LivePods(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list pods: %w", err)
	}
	since := p.lastRemoval()
	parts, err := p.config.Workload.Parts(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, part := range parts {
		p.adopt(part, since)
	}
	durable, err := p.config.Ledger.All(ctx)
	if err != nil {
		return nil, 0, err
	}
	p.verify(before, live)
	changes, err := p.compareClaims(storedClaims, durable)
	if err != nil {
		return nil, 0, err
	}
	records, generation := p.compareRecords(stored, state)
	return append(changes, records...), generation, nil
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

// compareRecords returns what brings an instance's budgets and pods in line
// with what is to be shown, and forgets what was dirty.
func (p *Publisher) compareRecords(stored map[string]string, state *instanceState) ([]mesh.Change, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state.dirty = map[ref]struct{}{}
	var changes []mesh.Change
	p.every(func(c mesh.Change) {
		value, stands := stored[c.Key]
		if c.Value != "" {
			delete(stored, c.Key)
		}
		if c.Value != "" && (!stands || value != c.Value) {
			changes = append(changes, c)
		}
	})
	for key := range stored {
		if k, err := wire.ParseKey(p.config.Cluster, key); err == nil && (k.Kind == wire.KindBudget || k.Kind == wire.KindPod) {
			changes = append(changes, mesh.Change{Key: key})
		}
	}
	return changes, p.generation
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
	alive := time.NewTicker(aliveInterval)
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
			err := func() error {
				ctx, cancel := context.WithTimeout(ctx, ioTimeout)
				defer cancel()
				return p.config.Store.Alive(ctx, name, incarnation)
			}()
			if err != nil {
				return err
			}
		}
	}
}

// flushSize is how many records one flush writes: far fewer than take ioTimeout.
const flushSize = 2000

// flush writes what is dirty, and reports whether some is left.
func (p *Publisher) flush(ctx context.Context, name string, state *instanceState, incarnation wire.Incarnation) (more bool, err error) {
	p.mu.Lock()
	generation := p.generation
	var refs []ref
	for r := range state.dirty {
		if len(refs) == flushSize {
			break
		}
		refs = append(refs, r)
		delete(state.dirty, r)
	}
	more = len(state.dirty) > 0
	changes := p.changes(refs)
	unconfirmed := generation > state.shown
	p.mu.Unlock()
	if len(changes) > 0 {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		if err := p.config.Store.Publish(ctx, name, incarnation, changes); err != nil {
			return more, err
		}
	} else if unconfirmed {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		if err := p.config.Store.Alive(ctx, name, incarnation); err != nil {
			return more, err
		}
	}
	if !more {
		p.shown(state, generation)
	}
	return more, nil
}

func (p *Publisher) shown(state *instanceState, generation uint64) {
	p.mu.Lock()
	state.shown = max(state.shown, generation)
	p.mu.Unlock()
}
