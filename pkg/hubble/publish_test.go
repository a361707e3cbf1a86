package hubble

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
)

// TestPublishingIsCheap: a decision allocates nothing to be shown, neither where nobody reads
// nor where it is lost because the export stands still.
func TestPublishingIsCheap(t *testing.T) {
	for name, c := range map[string]Config{"ring": config(), "lost": config()} {
		if name == "lost" {
			c.Export, c.Queue = &lines{}, 1 // and nobody runs it
		}
		o := newObserver(t, c)
		d := typical()
		if n := testing.AllocsPerRun(1000, func() { o.Publish(d) }); n != 0 {
			t.Errorf("%s: %.0f allocations for each decision", name, n)
		}
		if _, lost, _ := o.recent.counts(); (lost > 0) != (name == "lost") {
			t.Errorf("%s: %d lost", name, lost)
		}
	}
}

// TestNothingIsMadeForNobody: flows are made when somebody reads, and nobody but the export makes decisions wait or lost.
func TestNothingIsMadeForNobody(t *testing.T) {
	c := config()
	c.Queue = 1
	o := newObserver(t, c)
	run(t, o)
	const many = 5000
	for range many {
		o.Publish(typical())
	}
	if shown, lost, _ := o.recent.counts(); shown != many || lost != 0 {
		t.Errorf("%d shown, %d lost", shown, lost)
	}
	if written := o.ring.Len(); written != 2 {
		t.Errorf("%d events were made", written)
	}
	// On a busy machine the query takes so long that it is told of what the ring has let go: that is no flow.
	found := slices.DeleteFunc(get(t, dial(t, o), &observerpb.GetFlowsRequest{Number: many}), func(uuid string) bool { return uuid == "" })
	if len(found) != c.Capacity+1 {
		t.Errorf("%d are found", len(found))
	}
}

// stuck is an export whose disk does not answer until it is freed.
type stuck struct {
	lines
	reached chan struct{}
	freed   chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.reached <- struct{}{}:
	default:
	}
	<-s.freed
	return s.lines.Write(p)
}

// TestPublishNeverWaits: not for a disk, not for a reader who does not read; and all that was lost meanwhile is told in the end.
func TestPublishNeverWaits(t *testing.T) {
	out := &stuck{reached: make(chan struct{}, 1), freed: make(chan struct{})}
	c := config()
	c.Export, c.Queue, c.Capacity = out, 16, 127
	o := newObserver(t, c)
	run(t, o)
	free := sync.OnceFunc(func() { close(out.freed) })
	t.Cleanup(free)
	// It never receives.
	if _, err := dial(t, o).GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Number: 1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for o.followers.Load() == 0 && ctx.Err() == nil {
		// Its request is on the way.
	}
	o.Publish(typical())
	<-out.reached
	const many = 20_000
	published := make(chan struct{})
	go func() {
		defer close(published)
		for range many {
			o.Publish(typical())
		}
	}()
	select {
	case <-published:
	case <-ctx.Done():
		t.Fatal("publishing waits")
	}
	free()
	for ctx.Err() == nil {
		exported, told := 0, uint64(0)
		for _, r := range out.all(t) {
			if told += r.GetLostEvents().GetNumEventsLost(); r.GetFlow() != nil {
				exported++
			}
		}
		if told > 0 && uint64(exported)+told == many+1 {
			return
		}
	}
	shown, lost, untold := o.recent.counts()
	t.Errorf("%d shown, %d lost, %d untold", shown, lost, untold)
}
