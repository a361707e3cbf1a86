package hubble

import (
	"context"
	"runtime"
	"time"
)

// Run exports what is published and shows it to those who follow, until ctx
// ends, and then what was published by then.
func (o *Observer) Run(ctx context.Context) error {
	w := &writer{Observer: o}
	for w.await(ctx) {
		w.round()
		w.tell(false)
		w.rested = time.Now()
	}
	for w.behind() {
		w.round()
	}
	w.tell(true)
	w.exportEnds()
	return w.export.close()
}

// writer takes what is recent.
type writer struct {
	*Observer
	exported uint64    // number of the first entry that is not exported
	told     time.Time // when a loss was told
	rested   time.Time // when the last round ended
	entries  [chunk]entry
}

// await returns when there is something to do; false when ctx ends. The first decision is shown at
// once, and those that follow when some have gathered, or a moment has passed.
func (w *writer) await(ctx context.Context) bool {
	if pause := gatherInterval - time.Since(w.rested); pause > 0 {
		gather := time.NewTimer(pause)
		defer gather.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-gather.C:
		case <-w.recent.crowded:
		}
	}
	var again <-chan time.Time
	if _, _, untold := w.recent.counts(); untold > 0 {
		timer := time.NewTimer(lossInterval)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-w.recent.arrived:
	case <-again:
	}
	return true
}

// round takes what is there, but not all that comes meanwhile.
func (w *writer) round() {
	if w.export != nil {
		w.exportSome()
	}
	// Looked at behind the export: who began to follow since then finds in the ring what was exported.
	following := w.followers.Load() > 0
	if following {
		w.show()
	}
	switch {
	case w.export != nil:
		w.recent.take(w.exported)
	case following:
		w.mu.Lock()
		shown := w.shown
		w.mu.Unlock()
		w.recent.take(shown)
	}
}

// exportSome exports as many entries as may wait.
func (w *writer) exportSome() {
	for range w.config.Queue/chunk + 1 {
		first, entries := w.recent.copyFrom(w.exported, w.entries[:])
		for i := range entries {
			if e := &entries[i]; e.lost != nil {
				w.export.lost(e.decision.Time, e.lost)
			} else {
				w.sign(&e.decision)
				w.export.decision(&e.decision)
			}
		}
		w.exported = first + uint64(len(entries))
		if len(entries) < chunk {
			break
		}
		runtime.Gosched()
	}
	w.export.flush()
}

// behind reports whether there is something left to export.
func (w *writer) behind() bool {
	if w.export == nil {
		return false
	}
	_, entries := w.recent.copyFrom(w.exported, w.entries[:1])
	return len(entries) > 0
}

// tell makes what was lost a part of what is shown and exported, now and then, or at the end.
func (w *writer) tell(last bool) {
	if !last && time.Since(w.told) < lossInterval {
		return
	}
	lost := w.recent.tell()
	if lost == 0 {
		return
	}
	w.told = time.Now()
	w.round()
	w.config.Log.Warn("decisions were not shown, the queue was full", "count", lost)
}
