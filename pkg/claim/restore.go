package claim

// RestoreStep is what brings a store instance into service. The order is rule
// R1; each exchange of two steps has a counterexample (X05, X06, X07, H06, H11).
type RestoreStep uint8

const (
	// PutIncarnation: write a fresh random incarnation; it fences every earlier publisher.
	PutIncarnation RestoreStep = iota + 1
	// Register: add the instance to the registry; from now on claimants write to it.
	Register
	// ListDurable: quorum-list claims and pods, not before registering.
	ListDurable
	// WriteRecords: write claims and availability, guarded by the incarnation.
	WriteRecords
	// PutMarker: in a transaction on the incarnation, declare the instance readable.
	PutMarker
	// Serving: keep records in step, each write guarded by the incarnation.
	Serving
)

// Restore walks one instance through rule R1.
type Restore struct {
	step        RestoreStep
	incarnation string
}

// NewRestore starts with an incarnation that was never used before.
func NewRestore(incarnation string) *Restore {
	return &Restore{step: PutIncarnation, incarnation: incarnation}
}

// Next returns the step to perform.
func (r *Restore) Next() RestoreStep { return r.step }

// Incarnation returns the value that guards every write.
func (r *Restore) Incarnation() string { return r.incarnation }

// Done tells that the step succeeded.
func (r *Restore) Done() {
	if r.step < Serving {
		r.step++
	}
}

// Doubt starts again with a fresh incarnation, after anything that may mean
// another life of the store: a failed guard, a reconnect, a lost lease.
func (r *Restore) Doubt(incarnation string) {
	r.step, r.incarnation = PutIncarnation, incarnation
}
