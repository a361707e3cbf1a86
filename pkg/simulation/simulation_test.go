package simulation

import (
	"flag"
	"testing"
	"time"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "the seed to replay")
	withoutFlag = flag.String("without", "", "actions of its plan that do not happen, as 1,4-9")
	withFlag    = flag.String("with", "", "fields of its scenario that differ, as Clusters=2,Lose=0")
	twiceFlag   = flag.Int("twice", 5, "how many seeds run twice")
)

// TestSimulation runs a fixed set of seeds.
func TestSimulation(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 4
	}
	var total Stats
	for seed := range seeds {
		r := Run(t, Draw(seed), Options{})
		total.add(r.Stats)
		if r.Err != nil {
			reportFailure(t, seed, r.Err)
		}
	}
	t.Logf("%+v", total)
	for _, e := range []struct {
		what       string
		got, least int
	}{
		{"requests", total.Requests, 1500}, {"allowed", total.Allowed, 200}, {"denied", total.Denied, 700}, {"undecidable", total.Undecidable, 200},
		{"from the cached view", total.Cached, 900}, {"gave way", total.GaveWay, 20}, {"repeated", total.Repeated, 50}, {"granted", total.Granted, 130},
		{"waits", total.Waits, 300}, {"lost calls", total.Lost, 100}, {"crashes", total.Crashes, 3}, {"wipes", total.Wipes, 15}, {"cuts", total.Cuts, 8},
		{"hangs", total.Hangs, 8}, {"leader changes", total.Leads, 4}, {"deaths", total.Deaths, 2}, {"flaps", total.Flaps, 4}, {"resets", total.Resets, 10},
		{"compactions", total.Compactions, 10}, {"changes of budgets", total.Specs, 3}, {"joins", total.Joins, 2}, {"replaced instances", total.Replaced, 5},
		{"severed instances", total.Severed, 10},
		{"all slots in use", total.Full, 8}, {"rests", total.Rested, 1},
	} {
		if !testing.Short() && e.got < e.least {
			t.Errorf("%s: %d in %d seeds, fewer than %d: the simulation proves little", e.what, e.got, seeds, e.least)
		}
	}
}

// TestReplay tells one seed in words.
func TestReplay(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("replays -seed")
	}
	e, err := ParseEdit(*seedFlag, *withoutFlag, *withFlag)
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Scenario()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r := Run(t, s, Options{Told: func(line string) { t.Log(line) }})
	t.Logf("%+v\n%+v\n%s", s, r.Stats, time.Since(start))
	if r.Err != nil {
		t.Error(r.Err)
	}
}

// TestIsDeterministic: a seed that fails can be replayed.
func TestIsDeterministic(t *testing.T) {
	if testing.Short() {
		*twiceFlag = min(*twiceFlag, 2)
	}
	for seed := range uint64(*twiceFlag) {
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

// TestShrinks: of a run that fails what does not matter is left out, and the
// command that is told repeats it.
func TestShrinks(t *testing.T) {
	unwritten := breakageNamed(t, "the claim is not written").by
	fails := func(s Scenario) bool { return Run(t, s, Options{Break: unwritten}).Err != nil }
	var e Edit
	for e.Seed = 1; !fails(Draw(e.Seed)); e.Seed++ {
		if e.Seed > 50 {
			t.Fatal("no seed fails")
		}
	}
	small := Shrink(e, fails)
	s, err := small.Scenario()
	if err != nil {
		t.Fatal(err)
	}
	if whole := len(Draw(e.Seed).Plan); len(s.Plan) > whole/3 {
		t.Errorf("shrunk from %d actions to %d", whole, len(s.Plan))
	}
	again, err := ParseEdit(small.Seed, spans(small.Without), "Clusters=2,Lose=0")
	if err != nil || spans(again.Without) != spans(small.Without) || again.With["Clusters"] != 2 {
		t.Errorf("parsed %+v: %v", again, err)
	}
	t.Log(small.Command())
}

func breakageNamed(t *testing.T, name string) broken {
	t.Helper()
	for _, b := range breakages() {
		if b.name == name {
			return b
		}
	}
	t.Fatalf("no breakage %q", name)
	return broken{}
}
