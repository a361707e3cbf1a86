package mesh

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// waitersTTL is how long what a replica told of waiters outlives its last word, in seconds.
const waitersTTL = 30

// WriteWaiters tells, in one instance, of the pods that wait for a budget at
// this controller replica; none deletes what was told before.
func (o *Own) WriteWaiters(ctx context.Context, name, namespace, budget, replica string, waiters []claim.Waiter) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	key := wire.Key{Kind: wire.KindWaiters, Cluster: o.cluster, Namespace: namespace, Budget: budget, ID: replica}.String()
	if len(waiters) == 0 {
		if _, err := i.client.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete waiters from %s: %w", name, unreachable(err))
		}
		return nil
	}
	value, err := wire.Marshal(waitersRecord(waiters, time.Now()))
	if err != nil {
		return err
	}
	// A lease for each word: it ends with the last one, whatever is told of other budgets.
	lease, err := i.client.Grant(ctx, waitersTTL)
	if err != nil {
		return fmt.Errorf("grant lease in %s: %w", name, unreachable(err))
	}
	if _, err := i.client.Put(ctx, key, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return fmt.Errorf("write waiters to %s: %w", name, unreachable(err))
	}
	return nil
}
