package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// server serves batches that take a minute and notes them.
type server struct {
	mu      sync.Mutex
	batches []string
	begun   time.Time
}

func (s *server) serve(ctx context.Context, key string, questions []string) (string, error) {
	slices.Sort(questions)
	s.mu.Lock()
	s.batches = append(s.batches, fmt.Sprintf("%s %s +%s", key, strings.Join(questions, ","), time.Since(s.begun)))
	s.mu.Unlock()
	select {
	case <-time.After(time.Minute):
		return strings.Join(questions, ","), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *server) want(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.batches, want) {
		t.Errorf("batches:\n got %q\nwant %q", s.batches, want)
	}
}

// wantEmpty checks that nothing is remembered of keys that nobody asks about.
func wantEmpty(t *testing.T, g *Group[string, string, string]) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queues) != 0 {
		t.Errorf("%d queues are left", len(g.queues))
	}
}

func TestSerialGathersWhileABatchRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{begun: time.Now()}
		g := New(Serial, s.serve)
		var calls sync.WaitGroup
		ask := func(key, question, want string) {
			calls.Go(func() {
				if got, err := g.Call(t.Context(), key, question); got != want || err != nil {
					t.Errorf("%s: got %q, %v; want %q", question, got, err, want)
				}
			})
			synctest.Wait()
		}
		ask("k", "a", "a")
		ask("k", "b", "b,c")
		ask("k", "c", "b,c")
		ask("other", "d", "d")
		calls.Wait()
		s.want(t, "k a +0s", "other d +0s", "k b,c +1m0s")
		wantEmpty(t, g)
	})
}

func TestPatienceBoundsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{begun: time.Now()}
		g := New(time.Second, s.serve)
		var calls sync.WaitGroup
		for _, question := range []string{"a", "b", "c"} {
			calls.Go(func() { g.Call(t.Context(), "k", question) })
			synctest.Wait()
		}
		<-time.After(2 * time.Second) // of the bubble's clock
		calls.Go(func() { g.Call(t.Context(), "k", "d") })
		calls.Wait()
		s.want(t, "k a +0s", "k b,c +1s", "k d +3s")
		wantEmpty(t, g)
	})
}

func TestABatchLivesAsLongAsItsMostPatientCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{begun: time.Now()}
		g := New(Serial, s.serve)
		first, leave := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		calls.Go(func() { g.Call(first, "k", "a") })
		synctest.Wait()
		hasty, leaveHasty := context.WithCancel(t.Context())
		calls.Go(func() {
			if _, err := g.Call(hasty, "k", "b"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the caller's own end", err)
			}
		})
		calls.Go(func() {
			if got, err := g.Call(t.Context(), "k", "c"); got != "b,c" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
		synctest.Wait()
		// The only caller of the first batch leaves, so it is cut short.
		leave()
		synctest.Wait()
		// One of two callers leaves, so it goes on.
		leaveHasty()
		calls.Wait()
		s.want(t, "k a +0s", "k b,c +0s")
	})
}

func TestAPanicIsAnError(t *testing.T) {
	g := New(Serial, func(context.Context, string, []int) (int, error) { panic("broken") })
	var told any
	g.Panicked = func(value any, stack []byte) {
		if strings.Contains(string(stack), "TestAPanicIsAnError") {
			told = value
		}
	}
	if _, err := g.Call(t.Context(), "k", 1); err == nil || err.Error() != "panic: broken" {
		t.Errorf("got %v", err)
	}
	if told != "broken" {
		t.Errorf("told of %v", told)
	}
}

// Who has left was told that it failed: it must not happen afterwards, when he may be undoing it.
func TestWhoHasLeftIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{begun: time.Now()}
		g := New(Serial, s.serve)
		var calls sync.WaitGroup
		calls.Go(func() { g.Call(t.Context(), "k", "a") })
		synctest.Wait()
		hasty, leave := context.WithCancel(t.Context())
		calls.Go(func() { g.Call(hasty, "k", "b") })
		synctest.Wait()
		leave()
		calls.Go(func() { g.Call(t.Context(), "k", "c") })
		calls.Wait()
		s.want(t, "k a +0s", "k c +1m0s")
		wantEmpty(t, g)
		calls.Go(func() { g.Call(hasty, "k", "d") })
		calls.Wait()
		s.want(t, "k a +0s", "k c +1m0s")
		wantEmpty(t, g)
	})
}
