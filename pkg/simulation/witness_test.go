package simulation

import (
	"testing"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// The witness counts by R3: a claim that came after the first valid snapshot of
// its cluster does not count, whatever views that snapshot showed, if it is decided
// by the same clusters.
func TestTheWitnessCountsByTheFirstValidSnapshot(t *testing.T) {
	both := []string{"c1", "c2"}
	for _, later := range []struct {
		name  string
		claim claim.Claim
		left  int
	}{
		{"decided by the same clusters", claim.Claim{ID: "y", UID: "p2", Budgets: []string{fullName(0)}, Views: []string{claim.ViewID(both)}}, 2},
		{"decided by others", claim.Claim{ID: "y", UID: "p2", Budgets: []string{fullName(0)}, Views: []string{claim.ViewID(both[:1])}}, 1},
		{"for another budget", claim.Claim{ID: "y", UID: "p2", Budgets: []string{fullName(1)}, Views: []string{claim.ViewID(both)}}, 1},
		{"that does not tell", claim.Claim{ID: "y", UID: "p2"}, 1},
	} {
		t.Run(later.name, func(t *testing.T) {
			w := newWorld(Scenario{Seed: 1, Clusters: 2, Budgets: 1})
			p := &process{world: w, cluster: w.clusters[0]}
			r := &request{
				world: w, process: p, pod: &pod{uid: "own"}, first: map[string]map[string]bool{},
				budgets: []claim.Covering{{Name: fullName(0), Clusters: both}},
			}
			round := func(invalid string, view []string, claims ...claim.Claim) {
				r.entry = p.reads.turn()
				report := claim.Report{Expected: 1, View: both, Bounds: []budget.Bound{{Kind: budget.MinAvailable, Value: 1}}, Pods: []claim.Pod{{UID: "p1", Available: true}}}
				p.reads.end(p.reads.begin("c1"), claim.Snapshot{Cluster: "c1", Budgets: map[string]claim.Report{fullName(0): report}})
				report.View, report.Pods = view, []claim.Pod{{UID: "p2", Available: true}}
				p.reads.end(p.reads.begin("c2"), claim.Snapshot{Cluster: "c2", Invalid: invalid, Claims: claims, Budgets: map[string]claim.Report{fullName(0): report}})
				w.witness.saw(r)
			}
			round("not read", both)
			round("", both[:1])
			round("", both, later.claim)
			if got := w.witness.prove(r, "g", 0); len(got.counted) != later.left || w.witness.err != nil {
				t.Errorf("%d pods were counted, not %d: %v", len(got.counted), later.left, w.witness.err)
			}
		})
	}
}

// What the first valid snapshot shows counts, also where an invalid one came before it (X15).
func TestTheWitnessCountsWhatTheFirstValidSnapshotShows(t *testing.T) {
	w := newWorld(Scenario{Seed: 1, Clusters: 1, Budgets: 1})
	p := &process{world: w, cluster: w.clusters[0]}
	own := []string{"c1"}
	r := &request{world: w, process: p, pod: &pod{uid: "own"}, first: map[string]map[string]bool{}, budgets: []claim.Covering{{Name: fullName(0), Clusters: own}}}
	older := claim.Claim{ID: "y", UID: "p", Budgets: []string{fullName(0)}, Views: []string{claim.ViewID(own)}}
	for _, invalid := range []string{"not read", ""} {
		r.entry = p.reads.turn()
		report := claim.Report{Expected: 1, View: own, Pods: []claim.Pod{{UID: "p", Available: true}}}
		s := claim.Snapshot{Cluster: "c1", Invalid: invalid, Budgets: map[string]claim.Report{fullName(0): report}}
		if invalid == "" {
			s.Claims = []claim.Claim{older}
		}
		p.reads.end(p.reads.begin("c1"), s)
		w.witness.saw(r)
	}
	if got := w.witness.prove(r, "g", 0); len(got.counted) != 0 {
		t.Errorf("%d claimed pods were counted", len(got.counted))
	}
}
