package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// waitersTTL is how long what a replica told of waiters outlives its last word, in seconds.
const waitersTTL = 30

// waitersLease is the lease of one instance on which this process tells of waiters.
type waitersLease struct {
	id    clientv3.LeaseID
	fresh time.Time
}

// WriteWaiters tells, in one instance, of the pods that wait for a budget at
// this controller replica; none deletes what was told before.
func (o *Own) WriteWaiters(ctx context.Context, name, namespace, budget, replica string, waiters []claim.Waiter) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	key := wire.Key{Kind: wire.KindWaiters, Cluster: o.cluster, Namespace: namespace, Budget: budget, ID: replica}.String()
	if err := o.guard(key); err != nil {
		return err
	}
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
	lease, err := o.waitersLease(ctx, i)
	if err != nil {
		return fmt.Errorf("lease for waiters in %s: %w", name, unreachable(err))
	}
	if _, err := i.client.Put(ctx, key, string(value), clientv3.WithLease(lease)); err != nil {
		o.mu.Lock()
		i.waiters = waitersLease{}
		o.mu.Unlock()
		return fmt.Errorf("write waiters to %s: %w", name, unreachable(err))
	}
	return nil
}

// waitersLease returns a lease that lasts for most of waitersTTL.
func (o *Own) waitersLease(ctx context.Context, i *instance) (clientv3.LeaseID, error) {
	o.mu.Lock()
	lease := i.waiters
	o.mu.Unlock()
	if lease.id != 0 && time.Since(lease.fresh) < waitersTTL*time.Second/3 {
		return lease.id, nil
	}
	var err error
	if lease.id != 0 {
		_, err = i.client.KeepAliveOnce(ctx, lease.id)
	}
	if lease.id == 0 || err != nil {
		granted, grantErr := i.client.Grant(ctx, waitersTTL)
		if grantErr != nil {
			return 0, errors.Join(err, grantErr)
		}
		lease.id = granted.ID
	}
	lease.fresh = time.Now()
	o.mu.Lock()
	i.waiters = lease
	o.mu.Unlock()
	return lease.id, nil
}
