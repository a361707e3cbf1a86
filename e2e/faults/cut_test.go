package faults

import (
	"testing"
	"time"
)

// cutFor is longer than any keepalive, so that connections have died of it.
const cutFor = 15 * time.Second

// TestCutOffCluster cuts c3 off the mesh. What an absolute minAvailable can
// still everywhere; and within 2 s of healing all clusters grant again.
func TestCutOffCluster(t *testing.T) {
	judged(t)
	setRTT(t, near)
	must(t, mesh.Isolate("c3"))
	t.Cleanup(func() { must(t, mesh.Rejoin("c3")) })
	// In one cluster 1 of 3 may go, in two 4 of 6, whatever happens on the other side.
	granted(t, mesh.absolute, cluster(3))
	sentence := refused(t, mesh.absolute, cluster(3), "would leave 1 pod provably available", "needs 2")
	for range 2 {
		granted(t, mesh.absolute, cluster(1))
		granted(t, mesh.absolute, cluster(2))
	}
	never(t, mesh.relative, cutFor, mesh.clusters...)
	r := healing(t, 2*time.Second, mesh.relative, mesh.clusters, func() error { return mesh.Rejoin("c3") })
	row(t, "c3 is cut off for "+cutFor.String()+", 80 ms away", "minAvailable 2, c3: 1 eviction, then "+said(sentence)+"; c1, c2: what leaves 2 without c3. maxUnavailable: refused everywhere", r)
}
