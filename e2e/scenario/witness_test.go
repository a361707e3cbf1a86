package scenario

import (
	"testing"
	"time"
)

// TestReplayFavoursThoseWhoDecided: a pod that came back while its API server
// could not be watched is told of late. Another that went meanwhile did not go too early.
func TestReplayFavoursThoseWhoDecided(t *testing.T) {
	events := []sighting{
		{at: at(0), since: at(0), uid: "a", available: true},
		{at: at(0), since: at(0), uid: "b", available: true},
		{at: at(1), since: at(1), uid: "a"},
		{at: at(5), since: at(5), uid: "b"},
		{at: at(6), since: at(4), uid: "c", available: true},
	}
	if got := replay(events, 2); got.WorstUnavailable != 1 {
		t.Errorf("%d were missing, want 1", got.WorstUnavailable)
	}
	events[4].since = at(6)
	if got := replay(events, 2); got.WorstUnavailable != 2 || got.WorstAt != at(5) {
		t.Errorf("%d were missing at %s, want 2 at %s", got.WorstUnavailable, got.WorstAt, at(5))
	}
}

// TestReplayKeepsTheOrderOfAPod: what was told of a pod before it came back does not count after
// that, although it may have come back earlier than it was told of.
func TestReplayKeepsTheOrderOfAPod(t *testing.T) {
	for name, events := range map[string][]sighting{
		"a new pod": {
			{at: at(0), since: at(0), uid: "a", available: true},
			{at: at(0), since: at(0), uid: "b", available: true},
			{at: at(1), since: at(1), uid: "a"},
			{at: at(5), since: at(2), uid: "c"},
			{at: at(6), since: at(2), uid: "c", available: true},
			{at: at(7), since: at(7), uid: "b"},
		},
		"a pod that was available": {
			{at: at(0), since: at(0), uid: "a", available: true},
			{at: at(0), since: at(0), uid: "b", available: true},
			{at: at(5), since: at(2), uid: "a"},
			{at: at(6), since: at(2), uid: "a", available: true},
			{at: at(7), since: at(7), uid: "b"},
		},
	} {
		if got := replay(events, 2); got.WorstUnavailable != 1 || got.Deletions != 2 {
			t.Errorf("%s: %d were missing, want 1, and %d deletions, want 2", name, got.WorstUnavailable, got.Deletions)
		}
	}
}

func TestBlindness(t *testing.T) {
	for _, tt := range []struct {
		b    blindness
		now  time.Time
		want time.Time
	}{
		{blindness{}, at(9), at(9)},
		{blindness{from: at(3)}, at(9), at(3)},
		{blindness{from: at(3), to: at(8.5)}, at(9), at(3)},
		{blindness{from: at(3), to: at(5)}, at(9), at(9)},
	} {
		if got := tt.b.since(tt.now); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.b, got, tt.want)
		}
	}
}
