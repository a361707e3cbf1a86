package faults

import (
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// linkLimit is how long the first grant may take once a path is whole again.
const linkLimit = 2 * time.Second

// The round-trip times at which partitions are tried.
const (
	near = 80 * time.Millisecond
	far  = 250 * time.Millisecond
)

func distances() []time.Duration {
	if *long {
		return []time.Duration{near, far}
	}
	return []time.Duration{near}
}

func setRTT(t *testing.T, rtt time.Duration) {
	t.Helper()
	must(t, mesh.SetRTT(rtt))
	t.Cleanup(func() {
		if err := mesh.SetRTT(0); err != nil {
			t.Error(err)
		}
	})
}

// TestOneWayPartition: c1 no longer reads c3, while c3 reads c1. Only c1 is
// held up, and only where c3 matters.
func TestOneWayPartition(t *testing.T) {
	for _, rtt := range distances() {
		t.Run(rtt.String(), func(t *testing.T) {
			judged(t)
			setRTT(t, rtt)
			must(t, mesh.Partition("c1", "c3"))
			t.Cleanup(func() { must(t, mesh.Heal("c1", "c3")) })
			sentence := refused(t, mesh.relative, cluster(1), "c3", "does not answer in time")
			granted(t, mesh.relative, cluster(3))
			granted(t, mesh.absolute, cluster(1))
			r := healing(t, linkLimit, mesh.relative, mesh.clusters[:1], func() error { return mesh.Heal("c1", "c3") })
			row(t, "c1 no longer reads c3, "+rtt.String()+" apart", "c1: "+said(sentence)+"; c3 goes on", r)
		})
	}
}

// TestPartition: c1 and c3 do not read each other, and both read c2.
func TestPartition(t *testing.T) {
	for _, rtt := range distances() {
		t.Run(rtt.String(), func(t *testing.T) {
			judged(t)
			setRTT(t, rtt)
			heal := func() error {
				if err := mesh.Heal("c1", "c3"); err != nil {
					return err
				}
				return mesh.Heal("c3", "c1")
			}
			must(t, mesh.Partition("c1", "c3"))
			must(t, mesh.Partition("c3", "c1"))
			t.Cleanup(func() { must(t, heal()) })
			sentence := refused(t, mesh.relative, cluster(1), "c3", "does not answer in time")
			refused(t, mesh.relative, cluster(3), "c1", "does not answer in time")
			granted(t, mesh.relative, cluster(2))
			granted(t, mesh.absolute, cluster(1))
			granted(t, mesh.absolute, cluster(3))
			both := []*scenario.Cluster{cluster(1), cluster(3)}
			r := healing(t, linkLimit, mesh.relative, both, heal)
			row(t, "c1 and c3 do not read each other, "+rtt.String()+" apart", "c1: "+said(sentence)+"; c2 goes on", r)
		})
	}
}

// TestHalfOpenConnections: every connection to c3's kvstore goes silent for
// good and nobody is told, while new ones would work. Nothing heals that but
// the readers, who must find out by themselves.
func TestHalfOpenConnections(t *testing.T) {
	judged(t)
	r := healing(t, 5*time.Second, mesh.relative, mesh.clusters[:2], func() error {
		part(3).Strand()
		return nil
	})
	row(t, "connections to c3 are half open: silent for good, no reset", "c1, c2: "+said(unread("c3"))+", until they have connected anew by themselves", r)
}

// TestKVStoreFreezes: c3's kvstore accepts connections and answers nothing.
func TestKVStoreFreezes(t *testing.T) {
	judged(t)
	instance := part(3).Instances[0]
	must(t, instance.FreezeStore())
	frozen := true
	t.Cleanup(func() {
		if frozen {
			must(t, instance.ThawStore())
		}
	})
	sentence := refused(t, mesh.relative, cluster(1), "c3", "does not answer in time")
	ownSentence := refused(t, mesh.relative, cluster(3), "does not answer in time")
	granted(t, mesh.absolute, cluster(1))
	r := healing(t, linkLimit, mesh.relative, mesh.clusters, func() error {
		frozen = false
		return instance.ThawStore()
	})
	row(t, "c3's kvstore freezes", "c1: "+said(sentence)+"; c3: "+said(ownSentence), r)
}
