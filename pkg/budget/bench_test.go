package budget

import (
	"fmt"
	"testing"
)

// BenchmarkDecide measures one decision over many clusters of three pods each.
func BenchmarkDecide(b *testing.B) {
	for _, clusters := range []int{3, 16, 255} {
		q := Question{Budget: "prod/db", Pod: "db-0", UID: "0-0"}
		var view []string
		for c := range clusters {
			view = append(view, fmt.Sprintf("%03d", c))
		}
		for c := range clusters {
			cl := Cluster{Name: view[c], Expected: 3, View: view, Bounds: []Bound{{Kind: MaxUnavailable, Value: 1}}}
			for p := range 3 {
				cl.Pods = append(cl.Pods, Pod{UID: fmt.Sprintf("%d-%d", c, p), Available: true})
			}
			q.Clusters = append(q.Clusters, cl)
		}
		b.Run(fmt.Sprintf("clusters=%d", clusters), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(q); d.Verdict != Allow {
					b.Fatal(d.Sentence)
				}
			}
		})
	}
}
