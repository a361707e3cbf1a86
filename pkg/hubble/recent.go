package hubble

import (
	"sync"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

// entry is a decision, or how many were lost where it stands.
type entry struct {
	decision flow.Decision
	lost     *flowpb.LostEvent
}

// recent keeps the last decisions. Entries are numbered from 0; who wants them
// remembers the number of the next one. While somebody waits for every entry, what
// nobody has taken is not overwritten: the room for it is bounded, and what
// finds none is lost and counted. While nobody does, the oldest go.
type recent struct {
	mu    sync.Mutex
	slots []entry // a power of two
	next  uint64  // number of the entry to come
	taken uint64  // those below are waited for no more
	last  time.Time

	// waiting is how many wait for every entry, and room what they may be behind.
	waiting int
	room    uint64
	// arrived has an element if there is something to take, crowded if it should not be left for long.
	arrived, crowded chan struct{}

	shown, lost uint64
	// untold of the lost ones, since first until latest.
	untold        uint64
	first, latest time.Time
}

// newRecent keeps at least a number of decisions, of which those that room has place for may be waited for.
func newRecent(keep, room int) *recent {
	slots := 1
	// One more than there is room for: a loss is an entry too.
	for slots <= max(keep, room) {
		slots *= 2
	}
	return &recent{slots: make([]entry, slots), room: uint64(room), arrived: make(chan struct{}, 1), crowded: make(chan struct{}, 1)}
}

// add keeps a decision, or counts it as lost. It allocates nothing and waits
// for nobody but another add, or for a few entries to be copied.
func (r *recent) add(d *flow.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Readers look backwards for the first older one, and the UI takes equal times for the same flow.
	at := d.Time
	if !at.After(r.last) {
		at = r.last.Add(1)
	}
	r.last = at
	behind := r.next - r.taken
	if r.waiting > 0 && behind >= r.room {
		if r.untold == 0 {
			r.first = at
		}
		r.latest = at
		r.untold++
		r.lost++
		return
	}
	slot := &r.slots[r.next&uint64(len(r.slots)-1)]
	slot.decision, slot.lost = *d, nil
	slot.decision.Time = at
	r.shown++
	r.appended()
	switch {
	case r.waiting == 0:
	case behind == 0:
		signal(r.arrived)
	case behind >= r.room/2:
		signal(r.crowded)
	}
}

// appended is called with the lock held, when the next slot is full.
func (r *recent) appended() {
	r.next++
	if r.waiting == 0 {
		r.taken = r.next
	}
}

// signal wakes whoever waits, once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tell makes an entry of what was lost since the last time, and returns how much that is.
func (r *recent) tell() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.untold == 0 {
		return 0
	}
	slot := &r.slots[r.next&uint64(len(r.slots)-1)]
	slot.decision = flow.Decision{Time: r.last}
	slot.lost = &flowpb.LostEvent{
		Source: flowpb.LostEventSource_OBSERVER_EVENTS_QUEUE, NumEventsLost: r.untold, First: timestamppb.New(r.first), Last: timestamppb.New(r.latest),
	}
	r.appended()
	told := r.untold
	r.untold = 0
	return told
}

// copyFrom copies entries from a number on, or from the oldest one if that is gone, and returns
// the number of the first; nothing if there are none.
func (r *recent) copyFrom(number uint64, to []entry) (uint64, []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size := uint64(len(r.slots)); r.next > size {
		number = max(number, r.next-size)
	}
	n := min(uint64(len(to)), r.next-min(number, r.next))
	for i := range n {
		to[i] = r.slots[(number+i)&uint64(len(r.slots)-1)]
	}
	return number, to[:n]
}

// take says that those below a number are waited for no more.
func (r *recent) take(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = max(r.taken, number)
	if r.taken < r.next {
		// They came meanwhile, and found somebody behind already.
		signal(r.arrived)
	}
}

// wait begins to wait for every entry to come, until the returned function is called.
func (r *recent) wait() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.waiting--; r.waiting == 0 {
			r.taken = r.next
		}
	}
}

// counts returns how many decisions were kept, lost, and lost without being told of yet.
func (r *recent) counts() (shown, lost, untold uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shown, r.lost, r.untold
}
