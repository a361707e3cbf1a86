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

// tuneGC sets GOGC and GOMEMLIMIT by what is held, unless the environment does.
// Nearly all that a controller of many pods holds stays there: a heap that may double before it is
// collected would make the process twice as large as that. One that holds
// little would collect all the time for nothing.
func tuneGC(ctx context.Context) error {
	setPercent, setLimit := debug.SetGCPercent, debug.SetMemoryLimit
	if os.Getenv("GOGC") != "" {
		setPercent = func(int) int { return 0 }
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		setLimit = func(int64) int64 { return 0 }
	}
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	// The first lists make more garbage than all that follows.
	percent, limit := leastPercent, leastLimit
	setPercent(percent)
	setLimit(limit)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		live := liveHeap()
		// Setting either stops the world.
		if next := gcPercent(live); next != percent {
			setPercent(next)
			percent = next
		}
		if next := memoryLimit(live); next != limit {
			setLimit(next)
			limit = next
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

// leastLimit is a soft limit: the collector works harder before it is passed, as
// at a start beside 100,000 pods, and what the process takes beyond Go's own
// memory still fits below 500 MB with it.
const leastLimit int64 = 400 << 20

// memoryLimit leaves garbage half the room of what is held: a limit that live
// memory comes near would keep the collector busy for nothing.
func memoryLimit(live uint64) int64 {
	// In steps, so that it is rarely set.
	const step = 64 << 20
	return max(leastLimit, int64(live+live/2+step-1)/step*step)
}

// liveHeap is what the last collection found in use, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
