package claim

import (
	"testing"
	"time"
)

// TestSimulationFindsBrokenRules breaks one rule at a time and expects the
// checker to notice: what it would not notice, TestSimulation does not prove.
// The same scenario must pass with the rule kept.
func TestSimulationFindsBrokenRules(t *testing.T) {
	if testing.Short() {
		t.Skip("needs thousands of seeds")
	}
	const bound = 6000
	for _, b := range breakages() {
		t.Run(string(b.what), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(bound) {
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
		{readBeforeWrite, nil},
		{remoteFromCache, nil},
		{podsBeforeClaims, func(s *scenario) { s.stall, s.slots, s.calm, s.eager = 12, 1, 240, 16 }},
		{claimsNotRestored, nil},
		{ignoreMarker, func(s *scenario) { s.wipe, s.stall = 8, 10 }},
		{markerBeforeRecords, func(s *scenario) { s.wipe, s.stall, s.idle, s.slots, s.calm = 8, 10, 3, 1, 500 }},
		{incarnationUnguarded, func(s *scenario) { s.sticky, s.wipe, s.stall, s.idle, s.slots, s.calm = true, 8, 10, 3, 1, 500 }},
		{dropUnlisted, func(s *scenario) { s.flap = 8 }},
		{shownWhenUnready, nil},
		{dropAtEnd, nil},
		{slowAPIServer, func(s *scenario) { s.idle = 3 }},
		{listPodsFromCache, func(s *scenario) { s.crash, s.lead = 6, 6 }},
		{invalidAsEmpty, nil},
		{grantWithoutSwap, nil},
		{reconcileByPod, nil},
		{repeatWithoutSwap, func(s *scenario) { s.idle, s.slots, s.eager = 3, 1, 16 }},
		{ownPodsFromCache, nil},
		{restoreFromCache, func(s *scenario) { s.wipe = 8 }},
		{releaseOnStaleLook, func(s *scenario) { s.slots, s.calm = 1, 60 }},
		{writeOneInstance, nil},
		{registryBeforeClaim, func(s *scenario) {
			s.grow, s.joins, s.stall, s.idle, s.slots, s.calm, s.steps, s.lose = 12, false, 10, 3, 1, 500, 1400, 0
		}},
		{listBeforeRegister, func(s *scenario) { s.grow, s.joins, s.stall, s.idle, s.slots, s.calm = 6, false, 10, 3, 1, 500 }},
		{deregisterUnreachable, nil},
		{shownByOne, func(s *scenario) { s.instances = 2 }},
		{foreignViewsIgnored, joining},
		{ownViewIgnored, func(s *scenario) { joining(s); s.size, s.instances, s.slots, s.eager = 2, 1, 1, 16 }},
		{ownViewFromStore, func(s *scenario) {
			joining(s)
			s.instances, s.size, s.slots, s.stall, s.idle, s.calm, s.eager = 2, 2, 1, 10, 3, 500, 20
			s.lose, s.crash, s.wipe, s.cut, s.lead, s.expire = 0, 0, 0, 0, 0, 0
		}},
		{claimViewsIgnored, func(s *scenario) { joining(s); s.size, s.slots, s.idle, s.calm, s.eager = 2, 1, 3, 500, 20 }},
		{unreachableLeftOut, nil},
		{ownSpecOnly, nil},
		{boundForgotten, func(s *scenario) { s.tightens, s.relative, s.joins, s.cut = true, false, false, 8 }},
		{durableFirst, nil},
		{unmirrorRefused, func(s *scenario) { s.pending, s.idle, s.slots, s.eager = time.Second, 3, 1, 16 }},
		{unmirrorUnacknowledged, func(s *scenario) {
			s.pending, s.lose, s.idle, s.calm, s.slots, s.eager, s.wipe, s.cut, s.crash = time.Second, 150, 3, 120, 1, 16, 0, 0, 0
		}},
	}
}
