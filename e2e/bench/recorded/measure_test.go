package recorded

import (
	"os"
	"testing"
	"time"
)

// TestMeasure runs everything once, on etcds.
func TestMeasure(t *testing.T) {
	const samples = 3
	r, err := Measure(t.Context(), Options{
		Meshes: []int{3, 7}, Endpoints: []int{0, 250}, Budgets: []int{20}, Flows: FlowOptions{Rate: 500, Time: 200 * time.Millisecond, Rounds: 1}, Samples: samples, Progress: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Meshes) != 2 || len(r.Endpoints) != 2 || len(r.Budgets) != 1 {
		t.Fatalf("got %+v", r)
	}
	for _, m := range r.Meshes {
		if len(m.Grant) != samples || len(m.Preview) != samples || len(m.Refusal) != quick*samples || len(m.Core) != quick*samples {
			t.Errorf("%d clusters: samples are missing: %d %d %d %d", m.Clusters, len(m.Grant), len(m.Preview), len(m.Refusal), len(m.Core))
		}
		if m.Standing.Connections < m.Clusters || m.Standing.Goroutines < m.Clusters || m.Standing.Memory <= 0 {
			t.Errorf("%d clusters: standing %+v", m.Clusters, m.Standing)
		}
	}
	if len(r.Flows) != len(settings) {
		t.Fatalf("flows %+v", r.Flows)
	}
	for i, f := range r.Flows {
		s := settings[i]
		if f.Offered != 100 || f.P50 <= 0 || f.P99 < f.P50 || f.CPU <= 0 || f.Rate <= 0 || f.Shown != count(s.on) || f.Lost != 0 || f.Followed != count(s.followed) || f.Exported != count(s.exported) {
			t.Errorf("%s: %+v", s.name, f)
		}
	}
	if none, many := r.Endpoints[0].Bytes, r.Endpoints[1].Bytes; none <= 0 || many <= none {
		t.Errorf("bytes read: %g without other endpoints, %g with", none, many)
	}
}

// count is how many of the flows that TestMeasure offers a setting has.
func count(has bool) uint64 {
	if has {
		return 100
	}
	return 0
}
