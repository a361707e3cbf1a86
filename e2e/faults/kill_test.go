package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// restartLimit is how long the first grant may take once a process that was
// lost is ready again.
const restartLimit = 3 * time.Second

// startControllers starts those of a cluster that do not run, all at once.
func startControllers(ctx context.Context, n int) error {
	failures := make([]error, len(part(n).Controllers))
	var starts sync.WaitGroup
	for i, p := range part(n).Controllers {
		if !p.Running() {
			starts.Go(func() { failures[i] = p.Start(ctx) })
		}
	}
	starts.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

func killControllers(n int) {
	for _, p := range part(n).Controllers {
		p.Kill()
	}
}

// TestControllersDieBetweenClaimAndAnswer kills both controllers of c1 in the
// moment in which a claim is durable, or shown to the mesh too, and its answer
// is not given. Nobody was told yes. The claim may have been, as far as anybody
// can know, so it binds all clusters until it is withdrawn.
func TestControllersDieBetweenClaimAndAnswer(t *testing.T) {
	judged(t)
	w := own(t, "claimed", maxUnavailable(1))
	watch(t, w, 1)
	setRTT(t, far)
	for _, tt := range []struct {
		moment string
		sight  func(*testing.T, string) <-chan struct{}
		rare   bool
	}{
		{"when the claim is in the ledger", sightDurable, true},
		{"when the claim is in the kvstore", sightShown, false},
	} {
		t.Run(tt.moment, func(t *testing.T) {
			if tt.rare && !*long {
				t.Skip("see -long")
			}
			must(t, w.AwaitReady(t.Context()))
			must(t, w.AwaitAllowed(t.Context(), 1))
			claimed := tt.sight(t, w.Namespace)
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				<-claimed
				killControllers(1)
			}()
			a := askUntil(t, w, cluster(1), "cut short", func(a answer) bool { return apierrors.IsInternalError(a.err) || a.err == nil })
			if a.err == nil {
				t.Fatal("the eviction was allowed: it was not killed between claim and answer")
			}
			<-killed
			t.Logf("the eviction was answered: %v", a.err)
			must(t, startControllers(t.Context(), 1))
			sentence := refused(t, w, cluster(1), "in flight")
			r := healing(t, 20*time.Second, w, mesh.clusters[1:2], func() error { return nil })
			row(t, "both controllers of c1 are killed between claim and answer, "+tt.moment+"; maxUnavailable 1",
				"the caller: "+said(a.err.Error())+"; then everywhere: "+said(sentence), r)
		})
	}
}

// sightDurable returns a channel that is closed when a claim stands in the
// ledger that c1 keeps for the namespace.
func sightDurable(t *testing.T, namespace string) <-chan struct{} {
	t.Helper()
	c := cluster(1)
	watcher, err := client.NewWithWatch(c.Config, client.Options{Scheme: c.API.Scheme()})
	must(t, err)
	stream, err := watcher.Watch(t.Context(), &v1alpha1.DisruptionLedgerList{})
	must(t, err)
	t.Cleanup(stream.Stop)
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for event := range stream.ResultChan() {
			if l, ok := event.Object.(*v1alpha1.DisruptionLedger); ok && l.Name == namespace && pending(l) {
				return
			}
		}
	}()
	return seen
}

func pending(l *v1alpha1.DisruptionLedger) bool {
	return slices.ContainsFunc(l.Claims, func(c v1alpha1.DisruptionClaim) bool { return c.State == "Pending" })
}

// sightShown returns a channel that is closed when c1's kvstore shows a claim
// of the namespace.
func sightShown(t *testing.T, namespace string) <-chan struct{} {
	t.Helper()
	admin, err := part(1).Instances[0].AdminClient(t.Context())
	must(t, err)
	events := admin.Watch(clientv3.WithRequireLeader(t.Context()), wire.ClaimsPrefix(part(1).Name, namespace), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	seen := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(seen)
		for event := range events {
			if slices.ContainsFunc(event.Events, func(e *clientv3.Event) bool { return e.IsCreate() }) {
				return
			}
		}
	}()
	t.Cleanup(func() {
		admin.Close()
		<-done
	})
	return seen
}

// TestControllersDie: one of two, which nobody should notice, and then both.
func TestControllersDie(t *testing.T) {
	judged(t)
	leader := leaderOf(t, 1)
	r := healing(t, restartLimit, mesh.relative, mesh.clusters[:2], func() error {
		part(1).Controllers[leader].Kill()
		return nil
	})
	row(t, "the leader of c1's two controllers is killed", "nothing but what was under way in it", r)
	must(t, startControllers(t.Context(), 1))
	settle(t)

	killControllers(1)
	a := askUntil(t, mesh.relative, cluster(1), "failed", func(a answer) bool { return a.err != nil })
	granted(t, mesh.relative, cluster(2))
	r = healing(t, restartLimit, mesh.relative, mesh.clusters[:1], func() error { return startControllers(t.Context(), 1) })
	row(t, "both controllers of c1 are killed", "c1: "+said(a.err.Error())+"; others go on for 15 s, and after that where it is safe without c1", r)
}

// leaderOf is the index of the controller that publishes: it names itself in the kvstore.
func leaderOf(t *testing.T, n int) int {
	t.Helper()
	admin, err := part(n).Instances[0].AdminClient(t.Context())
	must(t, err)
	defer admin.Close()
	response, err := admin.Get(t.Context(), wire.Key{Kind: wire.KindIncarnation, Cluster: part(n).Name}.String())
	must(t, err)
	var incarnation wire.Incarnation
	must(t, wire.Unmarshal(response.Kvs[0].Value, &incarnation))
	i := slices.IndexFunc(part(n).Controllers, func(p *sandbox.Controller) bool { return p.Name == incarnation.Controller })
	if i < 0 {
		t.Fatalf("%s publishes for %s, who is unknown", incarnation.Controller, part(n).Name)
	}
	return i
}

// TestKVStoreReturnsEmpty kills c3's kvstore, which comes back without anything in it.
func TestKVStoreReturnsEmpty(t *testing.T) {
	judged(t)
	instance := part(3).Instances[0]
	must(t, instance.Kill(t.Context()))
	t.Cleanup(func() {
		if !instance.Running() {
			must(t, instance.Start(context.WithoutCancel(t.Context())))
		}
	})
	sentence := refused(t, mesh.relative, cluster(1), "c3", "its kvstore")
	ownSentence := refused(t, mesh.relative, cluster(3), "kvstore")
	granted(t, mesh.absolute, cluster(1))
	never(t, mesh.relative, time.Second, mesh.clusters...)
	r := healing(t, restartLimit, mesh.relative, mesh.clusters, func() error { return instance.Start(t.Context()) })
	row(t, "c3's kvstore is killed and comes back empty", "c1: "+said(sentence)+"; c3: "+said(ownSentence), r)
}

// TestExporterDies: c3's endpoints freeze. What Cilium does not list does not
// count, so every pod that is replaced in c3 is missing until it lists it.
func TestExporterDies(t *testing.T) {
	judged(t)
	instance := part(3).Instances[0]
	instance.KillExporter()
	t.Cleanup(func() {
		if !instance.Running() {
			must(t, instance.StartExporter(context.WithoutCancel(t.Context())))
		}
	})
	for range spare {
		granted(t, mesh.relative, cluster(3))
	}
	must(t, mesh.relative.AwaitReady(t.Context()))
	sentence := refused(t, mesh.relative, cluster(1), "c3 0/3, 3 not in Cilium's endpoints)")
	// In c3 itself they may go: what does not count costs nothing.
	never(t, mesh.relative, 2*time.Second, mesh.clusters[:2]...)
	r := healing(t, restartLimit, mesh.relative, mesh.clusters, func() error { return instance.StartExporter(t.Context()) })
	row(t, "c3's clustermesh-apiserver is killed, its etcd stands: endpoints freeze",
		"nothing until pods of c3 are replaced, then "+said(sentence), r)
}

// TestAPIServerDies kills the API server of c3, and then the etcd behind it.
// Nobody can evict anything there; the others go on.
func TestAPIServerDies(t *testing.T) {
	for _, victim := range []string{"API server", "etcd of the API server"} {
		t.Run(victim, func(t *testing.T) {
			judged(t)
			p := part(3).APIServer
			if victim != "API server" {
				p = part(3).KubeEtcd
			}
			p.Kill()
			t.Cleanup(func() {
				if !p.Running() {
					must(t, p.Start(context.WithoutCancel(t.Context())))
				}
			})
			a := askUntil(t, mesh.relative, cluster(3), "failed", func(a answer) bool { return a.err != nil })
			granted(t, mesh.relative, cluster(1))
			granted(t, mesh.absolute, cluster(2))
			r := healing(t, 2*restartLimit, mesh.relative, []*scenario.Cluster{cluster(2), cluster(3)}, func() error {
				return mended(t.Context(), 3, p.Start(t.Context()))
			})
			row(t, "the "+victim+" in c3 is killed", "c3: "+said(fmt.Sprint(a.err))+"; others go on", r)
		})
	}
}

// TestEverythingRestarts kills all that runs, everywhere and at once.
func TestEverythingRestarts(t *testing.T) {
	if !*long {
		t.Skip("takes half a minute; see -long")
	}
	judged(t)
	r := healing(t, 15*time.Second, mesh.relative, mesh.clusters, func() error {
		if err := everywhere(func(n int) error { return killAll(t.Context(), n) }); err != nil {
			return err
		}
		return everywhere(func(n int) error { return restart(t.Context(), n) })
	})
	row(t, "everything is killed everywhere at once and started again", "c1: no API server answers", r)
}

// killAll kills what a cluster consists of, but for what plays its nodes.
func killAll(ctx context.Context, n int) error {
	c := part(n)
	killControllers(n)
	c.APIServer.Kill()
	c.KubeEtcd.Kill()
	for _, i := range c.Instances {
		if err := i.Kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restart starts what a cluster consists of, as its machines would when power comes back.
func restart(ctx context.Context, n int) error {
	c := part(n)
	if err := c.KubeEtcd.Start(ctx); err != nil {
		return err
	}
	if err := mended(ctx, n, c.APIServer.Start(ctx)); err != nil {
		return err
	}
	for _, i := range c.Instances {
		if err := i.Start(ctx); err != nil {
			return err
		}
	}
	return startControllers(ctx, n)
}

// everywhere does something in all clusters at once.
func everywhere(do func(n int) error) error {
	failures := make([]error, len(mesh.clusters))
	var work sync.WaitGroup
	for i := range mesh.clusters {
		work.Go(func() { failures[i] = do(i + 1) })
	}
	work.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
