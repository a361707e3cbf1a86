package faults

import (
	"context"
	"errors"
	"time"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// fault is something that a race may inflict on cluster n, or on the path from
// it to another one.
type fault struct {
	name string
	// most is how long it lasts at most.
	most    time.Duration
	inflict func(ctx context.Context, n, other int) (heal func(context.Context) error, err error)
}

func nothing(context.Context) error { return nil }

// processFaults are inflicted on one cluster's processes, one at a time.
func processFaults() []fault {
	return []fault{
		{"kvstore killed", 6 * time.Second, func(ctx context.Context, n, _ int) (func(context.Context) error, error) {
			i := part(n).Instances[0]
			return i.Start, i.Kill(ctx)
		}},
		{"kvstore frozen", 6 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			i := part(n).Instances[0]
			return func(context.Context) error { return i.ThawStore() }, i.FreezeStore()
		}},
		{"exporter killed", 6 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			i := part(n).Instances[0]
			i.KillExporter()
			return i.StartExporter, nil
		}},
		{"one controller killed", 3 * time.Second, func(_ context.Context, n, other int) (func(context.Context) error, error) {
			part(n).Controllers[other%2].Kill()
			return func(ctx context.Context) error { return startControllers(ctx, n) }, nil
		}},
		{"both controllers killed", 8 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			killControllers(n)
			return func(ctx context.Context) error { return startControllers(ctx, n) }, nil
		}},
		{"one controller frozen", 15 * time.Second, func(_ context.Context, n, other int) (func(context.Context) error, error) {
			p := part(n).Controllers[other%2]
			return func(context.Context) error { return thaw(p) }, freeze(p)
		}},
		{"API server killed", 4 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			part(n).APIServer.Kill()
			return func(ctx context.Context) error { return mended(ctx, n, part(n).APIServer.Start(ctx)) }, nil
		}},
		{"API server frozen", 4 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			p := part(n).APIServer
			return func(ctx context.Context) error { return mended(ctx, n, p.Thaw()) }, p.Freeze()
		}},
		{"etcd of the API server killed", 4 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			part(n).KubeEtcd.Kill()
			return func(ctx context.Context) error { return mended(ctx, n, part(n).KubeEtcd.Start(ctx)) }, nil
		}},
		{"whole cluster killed", 2 * time.Second, func(ctx context.Context, n, _ int) (func(context.Context) error, error) {
			return func(ctx context.Context) error { return restart(ctx, n) }, killAll(ctx, n)
		}},
	}
}

// mended ends the healing of a cluster's API server or its etcd, which succeeded if err is nil: the kubelets take up
// what failed meanwhile, as soon as the API server answers.
func mended(ctx context.Context, n int, err error) error {
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for {
		if err := part(n).SyncPods(ctx); err == nil || !pause(ctx, askPause) {
			return err
		}
	}
}

// freeze stops a controller, unless it has ended by itself and waits to be started again.
func freeze(p *sandbox.Controller) error {
	if !p.Running() {
		return nil
	}
	return p.Freeze()
}

// thaw lets a controller go on. One that has found its lease lost while it was
// frozen ends, and is started again.
func thaw(p *sandbox.Controller) error {
	if !p.Running() {
		return nil
	}
	return p.Thaw()
}

// networkFaults are inflicted on paths and on what is known of them, one at a
// time, beside a process fault.
func networkFaults() []fault {
	return []fault{
		{"path cut one way", 20 * time.Second, func(_ context.Context, n, other int) (func(context.Context) error, error) {
			from, to := part(n).Name, part(other).Name
			return func(context.Context) error { return mesh.Heal(from, to) }, mesh.Partition(from, to)
		}},
		{"path cut both ways", 20 * time.Second, func(_ context.Context, n, other int) (func(context.Context) error, error) {
			from, to := part(n).Name, part(other).Name
			heal := func(context.Context) error { return errors.Join(mesh.Heal(from, to), mesh.Heal(to, from)) }
			return heal, errors.Join(mesh.Partition(from, to), mesh.Partition(to, from))
		}},
		{"cluster cut off", 20 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			name := part(n).Name
			return func(context.Context) error { return mesh.Rejoin(name) }, mesh.Isolate(name)
		}},
		{"connections half open", 5 * time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			part(n).Strand()
			return nothing, nil
		}},
		{"80 ms apart", 15 * time.Second, func(context.Context, int, int) (func(context.Context) error, error) {
			return func(context.Context) error { return mesh.SetRTT(0) }, mesh.SetRTT(near)
		}},
		{"250 ms apart", 15 * time.Second, func(context.Context, int, int) (func(context.Context) error, error) {
			return func(context.Context) error { return mesh.SetRTT(0) }, mesh.SetRTT(far)
		}},
		{"peer file taken away", 8 * time.Second, func(_ context.Context, n, other int) (func(context.Context) error, error) {
			return func(context.Context) error { return part(n).AddPeer() }, part(n).RemovePeer(part(other).Name)
		}},
		{"client certificates renewed", time.Second, func(_ context.Context, n, _ int) (func(context.Context) error, error) {
			return nothing, part(n).RenewClientCertificates()
		}},
	}
}
