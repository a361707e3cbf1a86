package faults

import (
	"context"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// TestInstanceDiesAndAThirdJoins: c1 has two clustermesh-apiserver instances
// with independent etcds. One dies: c1 may not grant until it is known that
// nobody reads that one any more. A fresh third one joins.
func TestInstanceDiesAndAThirdJoins(t *testing.T) {
	if !*long {
		t.Skip("takes a minute; see -long")
	}
	judged(t)
	second, err := part(1).AddInstance(t.Context())
	must(t, err)
	t.Cleanup(func() {
		// Whatever the test did not come to.
		for _, i := range part(1).Instances[1:] {
			must(t, part(1).RemoveInstance(context.WithoutCancel(t.Context()), i))
		}
	})
	granted(t, mesh.relative, cluster(1))
	must(t, second.Kill(t.Context()))
	sentence := refused(t, mesh.relative, cluster(1), "could not be written to instance")
	granted(t, mesh.relative, cluster(2))
	r := healing(t, 40*time.Second, mesh.relative, mesh.clusters[:1], func() error { return part(1).RemoveInstance(t.Context(), second) })
	row(t, "one of two instances in c1 dies, and is taken out of the configuration", "c1: "+said(sentence)+"; others go on", r)
	settle(t)
	r = healing(t, restartLimit, mesh.relative, mesh.clusters, func() error {
		_, err := part(1).AddInstance(t.Context())
		return err
	})
	row(t, "a fresh instance joins", "nothing", r)
	settle(t)
	third := part(1).Instances[1]
	must(t, part(1).RemoveInstance(t.Context(), third))
	healing(t, 40*time.Second, mesh.relative, mesh.clusters[:1], func() error { return nil })
}

// TestOlderCilium: c3's clustermesh-apiserver is of Cilium 1.19, which exports
// services and no endpoint slices, beside 1.20 in the other clusters.
func TestOlderCilium(t *testing.T) {
	if !*long {
		t.Skip("has to build Cilium 1.19; see -long")
	}
	program, err := mesh.Binaries.OlderCilium(t.Context())
	must(t, err)
	judged(t)
	instance := part(3).Instances[0]
	must(t, instance.Kill(t.Context()))
	instance.SetExporter(program)
	r := healing(t, restartLimit, mesh.relative, mesh.clusters, func() error { return instance.Start(t.Context()) })
	row(t, "c3's clustermesh-apiserver is replaced by Cilium 1.19's, beside 1.20", "as when a kvstore is killed", r)
	settle(t)
	// The bound is kept whoever asks, and endpoints that 1.19 no longer lists do not count.
	tight := own(t, "older-cilium", maxUnavailable(1))
	watch(t, tight, 1)
	for _, c := range mesh.clusters {
		granted(t, tight, c)
	}
	instance.KillExporter()
	must(t, tight.AwaitReady(t.Context()))
	granted(t, tight, cluster(3))
	refused(t, tight, cluster(1), "c3 2/3)")
	instance.SetExporter("")
	r = healing(t, restartLimit, tight, []*scenario.Cluster{cluster(1)}, func() error { return instance.StartExporter(t.Context()) })
	row(t, "and back to 1.20's, with the same etcd", "nothing", r)
}
