package simulation

import (
	"flag"
	"testing"
	"time"
)

var determinismFlag = flag.Int("twice", 10, "how many seeds run twice")

var seedFlag = flag.Uint64("seed", 0, "the seed to replay")

// TestSimulation runs a fixed set of seeds.
func TestSimulation(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 6
	}
	var total Stats
	for seed := range seeds {
		r := Run(t, Draw(seed), Options{})
		total.add(r.Stats)
		if r.Err != nil {
			t.Errorf("seed %d: %v\nreplay it: go test ./pkg/simulation -run TestReplay -v -seed %d", seed, r.Err, seed)
		}
	}
	t.Logf("%+v", total)
}

// TestReplay tells one seed in words.
func TestReplay(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("replays -seed")
	}
	start := time.Now()
	s := Draw(*seedFlag)
	r := Run(t, s, Options{Told: func(line string) { t.Log(line) }})
	t.Logf("%+v\n%+v\n%s", s, r, time.Since(start))
	if r.Err != nil {
		t.Error(r.Err)
	}
}

// TestIsDeterministic: a seed that fails can be replayed.
func TestIsDeterministic(t *testing.T) {
	if testing.Short() {
		*determinismFlag = min(*determinismFlag, 2)
	}
	for seed := range uint64(*determinismFlag) {
		var one, two []string
		a := Run(t, Draw(seed), Options{Told: func(line string) { one = append(one, line) }})
		b := Run(t, Draw(seed), Options{Told: func(line string) { two = append(two, line) }})
		if a.Digest == b.Digest {
			continue
		}
		for i := range min(len(one), len(two)) {
			if one[i] != two[i] {
				t.Errorf("seed %d ran differently at step %d of %d:\n%s\n%s\n(before: %s)", seed, i, len(one), one[i], two[i], one[max(0, i-1)])
				break
			}
		}
	}
}
