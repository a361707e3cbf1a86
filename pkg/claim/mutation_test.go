package claim

import (
	"flag"
	"testing"
	"time"
)

var firstFlag = flag.Bool("first", false, "look for the first seed of each broken rule, and compare it with the recorded one")

// TestSimulationFindsBrokenRules breaks one rule at a time and expects the
// checker to notice: what it would not notice, TestSimulation does not prove.
// The same scenario must pass with the rule kept. The recorded seed is tried
// first; if it no longer fails, because the code draws differently, all are.
func TestSimulationFindsBrokenRules(t *testing.T) {
	if testing.Short() {
		t.Skip("needs thousands of seeds")
	}
	const bound = 6000
	for _, b := range breakages() {
		t.Run(string(b.what), func(t *testing.T) {
			t.Parallel()
			from := b.first
			if *firstFlag {
				from = 0
			}
			for n := range uint64(bound) {
				seed := (from + n) % bound
				s := draw(seed)
				if b.tune != nil {
					b.tune(&s)
				}
				s.broken = b.what
				_, err := simulate(s, nil)
				if err == nil {
					continue
				}
				t.Logf("seed %d: %v", seed, err)
				if seed != b.first {
					t.Logf("recorded is seed %d: write down %d", b.first, seed)
					if *firstFlag {
						t.Fail()
					}
				}
				s.broken = intact
				if _, err := simulate(s, nil); err != nil {
					t.Errorf("seed %d with the rule kept: %v\n%s", seed, err, replay(s))
				}
				return
			}
			t.Errorf("no violation in %d seeds", bound)
		})
	}
}

type tuned struct {
	what breakage
	// first is the first seed that fails.
	first uint64
	// tune makes the scenario likely in which the rule matters.
	tune func(*scenario)
}

// joining is a scenario in which a newcomer meets old members, with nothing
// but grants that could take a pod away.
func joining(s *scenario) {
	s.relative, s.joins, s.tightens, s.grow, s.kill, s.flap = true, true, false, 0, 0, 0
}

func breakages() []tuned {
	return []tuned{
		{readBeforeWrite, 5, nil},
		{remoteFromCache, 4, nil},
		{podsBeforeClaims, 170, func(s *scenario) { s.stall, s.slots, s.calm, s.eager = 12, 1, 240, 16 }},
		{claimsNotRestored, 0, nil},
		{ignoreMarker, 10, func(s *scenario) { s.wipe, s.stall = 8, 10 }},
		{markerBeforeRecords, 10, func(s *scenario) { s.wipe, s.stall, s.idle, s.slots, s.calm = 8, 10, 3, 1, 500 }},
		{incarnationUnguarded, 86, func(s *scenario) { s.sticky, s.wipe, s.stall, s.idle, s.slots, s.calm = true, 8, 10, 3, 1, 500 }},
		{dropUnlisted, 11, func(s *scenario) { s.flap = 8 }},
		{shownWhenUnready, 75, nil},
		{dropAtEnd, 2, nil},
		{slowAPIServer, 8, func(s *scenario) { s.idle = 3 }},
		{listPodsFromCache, 1758, func(s *scenario) { s.crash, s.lead = 6, 6 }},
		{invalidAsEmpty, 0, nil},
		{grantWithoutSwap, 44, nil},
		{reconcileByPod, 928, nil},
		{repeatWithoutSwap, 2199, func(s *scenario) { s.idle, s.slots, s.eager = 3, 1, 16 }},
		{ownPodsFromCache, 27, nil},
		{restoreFromCache, 74, func(s *scenario) { s.wipe = 8 }},
		{releaseOnStaleLook, 37, func(s *scenario) { s.slots, s.calm = 1, 60 }},
		{writeOneInstance, 3, nil},
		{registryBeforeClaim, 345, func(s *scenario) {
			s.grow, s.joins, s.stall, s.idle, s.slots, s.calm, s.steps, s.lose = 12, false, 10, 3, 1, 500, 1400, 0
		}},
		{listBeforeRegister, 785, func(s *scenario) { s.grow, s.joins, s.stall, s.idle, s.slots, s.calm = 6, false, 10, 3, 1, 500 }},
		{deregisterUnreachable, 267, nil},
		{shownByOne, 32, func(s *scenario) { s.instances = 2 }},
		{foreignViewsIgnored, 8, joining},
		{ownViewIgnored, 42, func(s *scenario) { joining(s); s.size, s.instances, s.slots, s.eager = 2, 1, 1, 16 }},
		{ownViewFromStore, 1127, func(s *scenario) {
			joining(s)
			s.instances, s.size, s.slots, s.stall, s.idle, s.calm, s.eager = 2, 2, 1, 10, 3, 500, 20
			s.lose, s.crash, s.wipe, s.cut, s.lead, s.expire = 0, 0, 0, 0, 0, 0
		}},
		{claimViewsIgnored, 52, func(s *scenario) { joining(s); s.size, s.slots, s.idle, s.calm, s.eager = 2, 1, 3, 500, 20 }},
		{unreachableLeftOut, 6, nil},
		{ownSpecOnly, 18, nil},
		{boundForgotten, 190, func(s *scenario) { s.tightens, s.relative, s.joins, s.cut = true, false, false, 8 }},
		{durableFirst, 74, nil},
		{unmirrorRefused, 82, func(s *scenario) { s.pending, s.idle, s.slots, s.eager = time.Second, 3, 1, 16 }},
		{unmirrorUnacknowledged, 1367, func(s *scenario) {
			s.pending, s.lose, s.idle, s.calm, s.slots, s.eager, s.wipe, s.cut, s.crash = time.Second, 150, 3, 120, 1, 16, 0, 0, 0
		}},
	}
}
