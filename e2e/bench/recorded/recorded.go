// Package recorded measures one controller's view of meshes larger than a
// machine can run: the real pkg/mesh and pkg/decide in this process, with a
// client and a standing view for each peer, on real etcds that hold recorded
// state as the peers' controllers and Cilium would have written it. Several
// peers share an etcd; their keys carry their names.
//
// What is not measured here lives in memory: the ledger, the registry of
// instances and the scope of budgets, which are the Kubernetes API's in a
// controller.
package recorded

import (
	"context"
	"errors"
	"fmt"
	"io"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// Options of a measurement.
type Options struct {
	// Meshes are the numbers of clusters to measure.
	Meshes []int
	// Endpoints are the numbers of other Services' endpoints in the namespace.
	Endpoints []int
	// Budgets are the numbers of budgets in the views.
	Budgets []int
	// Flows, if there are rounds, say how decisions are offered while they are shown.
	Flows FlowOptions
	// Samples of everything that takes a round of reads; a hundred times as many
	// are taken of what does not.
	Samples int
	// Progress receives a line for each step.
	Progress io.Writer
}

// peerStores is how many etcds the peers share.
const peerStores = 4

// stores are the running etcds: the first is the own cluster's, the others the peers'.
type stores struct {
	options Options
	sandbox *sandbox.Mesh
	admins  []*clientv3.Client
}

func startStores(ctx context.Context, o Options) (*stores, error) {
	running, err := sandbox.NewStores(ctx, sandbox.Options{Clusters: 1 + peerStores, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	s := &stores{options: o, sandbox: running}
	for _, c := range running.Clusters {
		admin, err := c.Instances[0].AdminClient(ctx)
		if err == nil {
			s.admins = append(s.admins, admin)
			err = permit(ctx, admin)
		}
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
	}
	return s, nil
}

func (s *stores) stop() error {
	var errs []error
	for _, a := range s.admins {
		errs = append(errs, a.Close())
	}
	return errors.Join(append(errs, s.sandbox.Stop())...)
}

// permit lets the user remote read what Cilium permits it to read of the
// etcd's own cluster, of every cluster.
func permit(ctx context.Context, admin *clientv3.Client) error {
	for _, prefix := range []string{"cilium/cluster-config/", "cilium/synced/"} {
		_, err := admin.RoleGrantPermission(ctx, "remote", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermRead))
		if err != nil {
			return fmt.Errorf("permit reading %s: %w", prefix, err)
		}
	}
	return nil
}

// storeOf is which etcd holds the n-th cluster's records; 0 is the own cluster.
func storeOf(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + (n-1)%peerStores
}

// nameOf is the n-th cluster's name. The own one's must be that of its etcd's
// administrator.
func nameOf(n int) string { return fmt.Sprintf("c%d", n+1) }

// fill makes the stores hold the given records of each cluster, and nothing else.
func (s *stores) fill(ctx context.Context, clusters []records) error {
	for _, admin := range s.admins {
		if _, err := admin.Delete(ctx, "cilium/", clientv3.WithPrefix()); err != nil {
			return fmt.Errorf("empty store: %w", err)
		}
	}
	for n, r := range clusters {
		if err := put(ctx, s.admins[storeOf(n)], r); err != nil {
			return fmt.Errorf("fill store of %s: %w", nameOf(n), err)
		}
	}
	return nil
}

// put writes records in transactions of the size that etcd accepts.
func put(ctx context.Context, admin *clientv3.Client, r records) error {
	const most = 100
	var ops []clientv3.Op
	commit := func() error {
		_, err := admin.Txn(ctx).Then(ops...).Commit()
		ops = nil
		return err
	}
	for key, value := range r {
		ops = append(ops, clientv3.OpPut(key, value))
		if len(ops) == most {
			if err := commit(); err != nil {
				return err
			}
		}
	}
	if len(ops) == 0 {
		return nil
	}
	return commit()
}

func (s *stores) say(format string, args ...any) {
	fmt.Fprintf(s.options.Progress, format+"\n", args...)
}
