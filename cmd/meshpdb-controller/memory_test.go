package main

import (
	"runtime"
	"testing"
)

func TestGarbageIsBounded(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 8 << 20: 400, 32 << 20: 200, 64 << 20: 100, 128 << 20: 50, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes in use: GOGC %d, want %d", live, got, want)
		}
	}
	for live, want := range map[uint64]int64{0: leastLimit, 200 << 20: leastLimit, 300 << 20: 512 << 20, 2 << 30: 3 << 30} {
		if got := memoryLimit(live); got != want {
			t.Errorf("%d bytes in use: a limit of %d, want %d", live, got, want)
		}
	}
	runtime.GC()
	if live := liveHeap(); live < 1<<10 || live > 1<<30 {
		t.Errorf("%d bytes are in use", live)
	}
}
