package e2e

import (
	"context"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// TestRaceIsHeld lets eager evictors loose in three clusters with 3 pods each:
// under meshpdb no more than one pod is ever missing. The same race without
// claims, and under native PodDisruptionBudgets, must break the bound, else it
// would prove nothing.
func TestRaceIsHeld(t *testing.T) {
	t.Run("meshpdb", func(t *testing.T) {
		w := budgeted(t, "race-held", 3, maxUnavailable(1))
		testimony, tally := race(t, w, raceOptions{duration: time.Minute, callers: 4, allowed: 1, want: history.Held})
		if testimony.WorstUnavailable != 1 {
			t.Errorf("worst unavailable: got %d, want 1", testimony.WorstUnavailable)
		}
		if tally.Granted() < 4 || tally.Refused() < 100 {
			t.Errorf("got %d grants and %d refusals: the race proves little", tally.Granted(), tally.Refused())
		}
	})
	t.Run("native PodDisruptionBudgets", func(t *testing.T) {
		w := stretched(t, "race-native", 3)
		if err := w.NativeBudget(t.Context(), intstr.FromInt32(1)); err != nil {
			t.Fatal(err)
		}
		testimony, _ := race(t, w, raceOptions{duration: time.Minute, callers: 4, until: 2, allowed: 1, want: history.Violated})
		if testimony.WorstUnavailable < 2 {
			t.Errorf("worst unavailable: got %d; three native budgets should not hold one mesh-wide bound", testimony.WorstUnavailable)
		}
	})
	t.Run("claims switched off", func(t *testing.T) {
		unsafe, err := mesh.Binaries.Controller(t.Context(), "meshpdb_unsafe_noclaims")
		if err != nil {
			t.Fatal(err)
		}
		useControllers(t, unsafe)
		t.Cleanup(func() { useControllers(t, mesh.binary) })
		w := budgeted(t, "race-unclaimed", 3, maxUnavailable(1))
		testimony, _ := race(t, w, raceOptions{duration: time.Minute, callers: 4, until: 2, allowed: 1, want: history.Violated})
		if testimony.WorstUnavailable < 2 {
			t.Errorf("worst unavailable: got %d; decisions without claims should overlap", testimony.WorstUnavailable)
		}
	})
}

// TestBudgetIsUsedUp: 30 pods, maxUnavailable 10, 80 ms between the clusters.
// A lock per budget could not have 9 disruptions in flight; nobody may have 11.
func TestBudgetIsUsedUp(t *testing.T) {
	if err := mesh.SetRTT(80 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mesh.SetRTT(0); err != nil {
			t.Error(err)
		}
	})
	w := budgeted(t, "race-large", 10, maxUnavailable(10))
	testimony, tally := race(t, w, raceOptions{duration: 45 * time.Second, callers: 4, allowed: 10, want: history.Held})
	if testimony.WorstUnavailable < 9 || testimony.WorstUnavailable > 10 {
		t.Errorf("worst unavailable: got %d, want 9 or 10", testimony.WorstUnavailable)
	}
	if tally.Granted() < 20 {
		t.Errorf("got %d grants in 45s", tally.Granted())
	}
}

type raceOptions struct {
	duration time.Duration
	// callers in each cluster.
	callers int
	// until so many pods are missing, if not 0, the race goes on.
	until int
	// allowed is how many pods may be unavailable, and want the verdict on that.
	allowed int
	want    history.Verdict
}

// race lets eager evictors loose in every cluster and returns what a witness saw, after the
// verdict on it.
func race(t *testing.T, w *scenario.Workload, o raceOptions) (scenario.Testimony, *scenario.Tally) {
	t.Helper()
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tally := scenario.NewTally()
	// Not a deadline: client-go's rate limiter would fail the last requests ahead of it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	timer := time.AfterFunc(o.duration, cancel)
	defer timer.Stop()
	if o.until > 0 {
		go witness.Await(ctx, o.until, cancel)
	}
	w.EvictEagerly(ctx, o.callers, 50*time.Millisecond, tally)
	testimony, err := witness.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("worst unavailable %d of %d, %d granted (median %s), %d refused", testimony.WorstUnavailable, testimony.Expected,
		tally.Granted(), tally.MedianGrant().Round(time.Millisecond), tally.Refused())
	for _, err := range tally.Failures() {
		t.Errorf("an eviction was answered with what kubectl drain gives up on: %v", err)
	}
	wantVerdict(t, o.want, witness, history.Bound{MaxUnavailable: strconv.Itoa(o.allowed)}, tally)
	return testimony, tally
}
