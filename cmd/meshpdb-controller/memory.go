package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// collectInterval is how often the garbage collector is set anew.
const collectInterval = 5 * time.Second

// tuneGC sets GOGC by what is held, unless the environment does. Nearly all
// that a controller of many pods holds stays there: a heap that may double before it is
// collected would make the process twice as large as that. One that holds
// little would collect all the time for nothing.
func tuneGC(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	// The first lists make more garbage than all that follows.
	percent := leastPercent
	debug.SetGCPercent(percent)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if next := gcPercent(liveHeap()); next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
	}
}

const leastPercent = 50

// gcPercent lets the garbage of a small heap grow to some 64 MiB, and that of a
// large one to half of what it holds.
func gcPercent(live uint64) int {
	const room = 64 << 20
	percent := max(leastPercent, min(400, 100*room/max(live, 1)))
	// Setting it stops the world, so small changes are none.
	return int(percent / 25 * 25)
}

// liveHeap is what the last collection found in use, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
