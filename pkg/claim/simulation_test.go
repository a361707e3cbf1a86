package claim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// simulate runs one scenario to its end or to the first violation.
func simulate(s scenario, trace func(string, ...any)) (stats, error) {
	w := newWorld(s)
	if trace != nil {
		w.trace, w.traced = trace, true
	}
	w.start()
	for range s.steps {
		if err := w.step(); err != nil {
			return w.stats, err
		}
	}
	return w.stats, nil
}

// replay repeats a failing scenario and returns the end of its trace.
func replay(s scenario) string {
	var lines []string
	_, err := simulate(s, func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	return fmt.Sprintf("%+v\n%s\n%v", s, strings.Join(lines[max(0, len(lines)-60):], "\n"), err)
}

// TestSimulation checks theorem 1 after every step of every seed.
func TestSimulation(t *testing.T) {
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 300
	}
	const shards = 4
	var sums [shards]stats
	t.Run("seeds", func(t *testing.T) {
		for shard := range uint64(shards) {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := shard; seed < seeds; seed += shards {
					got, err := simulate(draw(seed), nil)
					if err != nil {
						t.Fatalf("seed %d: %v\n%s", seed, err, replay(draw(seed)))
					}
					sums[shard].add(got)
				}
			})
		}
	})
	var total stats
	for _, s := range sums {
		total.add(s)
	}
	t.Logf("%d seeds: %+v", seeds, total)
	for _, e := range []struct {
		what       string
		got, least int
	}{
		{"requests", total.requests, 1000}, {"allowed", total.allowed, 150}, {"denied", total.denied, 150},
		{"undecidable", total.undecidable, 300}, {"repeated", total.repeats, 25}, {"waits", total.waits, 300},
		{"crashes", total.crashes, 100}, {"wipes", total.wipes, 150}, {"leader changes", total.leads, 100},
		{"involuntary failures", total.kills, 25}, {"lost I/Os", total.lost, 250}, {"fenced writes", total.fenced, 150},
		{"restored instances", total.restores, 400}, {"tombstones dropped", total.drops, 40},
		{"released", total.releases, 2}, {"withdrawn by another", total.withdrawn, 20}, {"all slots in use", total.full, 30},
	} {
		if least := e.least * int(seeds) / 300; e.got < least {
			t.Errorf("%s: %d in %d seeds, fewer than %d: the simulation proves little", e.what, e.got, seeds, least)
		}
	}
}

// TestSimulationIsDeterministic: a seed that fails can be replayed.
func TestSimulationIsDeterministic(t *testing.T) {
	for seed := range uint64(20) {
		if one, two := replay(draw(seed)), replay(draw(seed)); one != two {
			t.Fatalf("seed %d ran differently:\n%s\n\n%s", seed, one, two)
		}
	}
}

// TestSimulationGrantsExactly: without faults, n requests at once for k free
// slots are answered with exactly min(n, k) grants (section 4 of the protocol).
// R5 is what it takes (L01, L03).
func TestSimulationGrantsExactly(t *testing.T) {
	seeds := uint64(1000)
	if testing.Short() {
		seeds = 100
	}
	seen := map[string]int{}
	for seed := range seeds {
		s := draw(seed)
		s.calm = 1 << 40
		s.budgets, s.surge, s.joins, s.tightens, s.lose, s.idle = 1, 0, false, false, 0, 4
		w := newWorld(s)
		w.start()
		w.settled = true
		n := min(1+w.rand.IntN(5), s.size*s.pods)
		want := min(n, s.slots)
		for i, at := range w.rand.Perm(s.size * s.pods)[:n] {
			c := w.clusters[at%s.size]
			c.processes[i%2].request(c.pods[at/s.size], 24*time.Hour)
		}
		for steps := 0; w.stats.allowed+w.stats.denied+w.stats.undecidable < n; steps++ {
			if err := w.step(); err != nil || steps > 100_000 {
				t.Fatalf("seed %d after %d steps: %v, %+v", seed, steps, err, w.stats)
			}
		}
		if w.stats.allowed != want || w.stats.denied != n-want {
			t.Errorf("seed %d: %d requests for %d slots: %d allowed, %d denied, %d undecidable", seed, n, s.slots, w.stats.allowed, w.stats.denied, w.stats.undecidable)
		}
		seen[fmt.Sprintf("%d of %d", s.slots, n)]++
	}
	t.Logf("slots of requests: %v", seen)
}
