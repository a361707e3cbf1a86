package claim

import (
	"maps"
	"slices"
)

// Tombstones tells when the granted claim of a pod that has ended may be
// dropped (R9): its end was confirmed by a quorum read, and every instance
// registered since then shows it. Dropping earlier lets a reader count a pod
// that is gone (X09 to X14, H08, H09).
type Tombstones struct {
	ended map[string]*tombstone
}

type tombstone struct {
	registered []string
	known      bool
	shown      map[string]bool
}

// NewTombstones returns an empty set.
func NewTombstones() *Tombstones { return &Tombstones{ended: map[string]*tombstone{}} }

// Ended tells that the claim's pod is terminating, which is never taken back, or
// that a quorum read found it gone.
func (t *Tombstones) Ended(claimID string) {
	if t.ended[claimID] == nil {
		t.ended[claimID] = &tombstone{shown: map[string]bool{}}
	}
}

// Registered tells the registry as read after Ended.
func (t *Tombstones) Registered(claimID string, instances []string) {
	if s := t.ended[claimID]; s != nil {
		s.registered, s.known = slices.Clone(instances), true
	}
}

// Shown tells that the instance acknowledged a publication, made after Ended,
// in which the pod is not available, and that its publisher had processed the
// end by then: a pod that is only unready may still be "ready" in a queue (X11).
func (t *Tombstones) Shown(claimID, instance string) {
	if s := t.ended[claimID]; s != nil {
		s.shown[instance] = true
	}
}

// Droppable returns the claims that may be dropped, sorted.
func (t *Tombstones) Droppable() []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(t.ended)) {
		s := t.ended[id]
		if s.known && len(s.registered) > 0 && !slices.ContainsFunc(s.registered, func(i string) bool { return !s.shown[i] }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Forget tells that the claim was dropped, or that all must be confirmed anew.
func (t *Tombstones) Forget(claimID string) { delete(t.ended, claimID) }
