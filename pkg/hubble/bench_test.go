package hubble

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// BenchmarkPublish is what a decision waits for: the queue, taken from and exported meanwhile.
func BenchmarkPublish(b *testing.B) {
	c := config()
	c.Export, c.Queue = discard{io.Discard}, 1024
	o, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	d := decision("1")
	b.ReportAllocs()
	for b.Loop() {
		o.Publish(d)
	}
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkShow is what the observer's goroutine does for one decision, the export included.
func BenchmarkShow(b *testing.B) {
	c := config()
	c.Export = discard{io.Discard}
	o, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	w, d := &writer{Observer: o, told: time.Now()}, decision("1")
	d.Arithmetic = budget.Decision{Verdict: budget.Deny, Reason: budget.Insufficient, Expected: 9, Desired: 8}
	b.ReportAllocs()
	for b.Loop() {
		w.take(d)
	}
}

// refusalTime is that of the fastest decision there is, a refusal from memory (docs/performance.md).
const refusalTime = 100 * time.Microsecond

// TestDecisionsAreNotSlowed: at 20,000 decisions a second, each of which takes a refusal's time, publishing adds less than 5 %
// of that to the median one. Cores are shared by whatever else runs, so the best of some rounds counts.
func TestDecisionsAreNotSlowed(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures")
	}
	const rounds, decisions, interval = 5, 10_000, time.Second / 20_000
	c := config()
	c.Export, c.Queue = discard{io.Discard}, 1024
	o := newObserver(t, c)
	run(t, o)
	d := decision("1")
	best := time.Hour
	for range rounds {
		took := make([]time.Duration, 0, decisions)
		start := time.Now()
		for i := range decisions {
			for time.Since(start) < time.Duration(i)*interval {
				// A timer is too coarse for 50 µs.
			}
			before := time.Now()
			o.Publish(d)
			took = append(took, time.Since(before))
		}
		slices.Sort(took)
		best = min(best, took[len(took)/2])
		t.Logf("median %s, p99 %s, %d of %d lost so far", took[len(took)/2], took[len(took)*99/100], o.lostTotal.Load(), rounds*decisions)
	}
	if best > refusalTime/20 {
		t.Errorf("publishing takes %s, which is more than 5 %% of %s", best, refusalTime)
	}
	if got := o.seen.Load() + o.lostTotal.Load(); got < rounds*decisions-uint64(c.Queue)-1 {
		t.Errorf("%d decisions are neither shown nor told as lost", rounds*decisions-got)
	}
}
