package mesh

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// MarkerTTL is how long an instance stays readable after its publisher died, in
// seconds (rule R1: the marker stands on a lease).
const MarkerTTL = 15

// Own is the own cluster's kvstore: N clustermesh-apiserver instances with N
// independent etcds. It holds the admin certificate, which is root in them, so
// its clients refuse every write outside the own cluster's prefix: see screen.
type Own struct {
	cluster string

	mu        sync.Mutex
	instances map[string]*instance
	// retired instances are configured no more; they are kept until Retire has
	// taken their marker off, for somebody may still read them.
	retired map[string]*instance
	problem error
}

type instance struct {
	name        string
	client      *clientv3.Client
	reset       func() // makes the client connect anew
	credentials [sha256.Size]byte
	lease       clientv3.LeaseID
}

// errGuard: a write was refused because another incarnation stands in the store.
var errGuard = errors.New("another incarnation has begun")

// IsFenced reports whether a publisher was refused because another one, or
// another life of the store, has begun (rule R1).
func IsFenced(err error) bool { return errors.Is(err, errGuard) }

func newOwn(cluster string) *Own {
	return &Own{cluster: cluster, instances: map[string]*instance{}, retired: map[string]*instance{}, problem: errors.New("the own kvstore is not configured yet")}
}

// configure replaces the instances by those of the file. One that stays keeps
// its marker's lease, which is the kvstore's and no connection's, and with the
// same authorities its client. serverName is what the instances' certificates
// carry if they do not name their address.
func (o *Own) configure(f *clientFile, serverName string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	fresh := map[string]*instance{}
	for _, endpoint := range f.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" {
			return fmt.Errorf("parse endpoint %q of %s: not an https URL", endpoint, f.path)
		}
		if old := o.instances[u.Host]; old != nil && old.credentials == f.credentials {
			fresh[u.Host] = old
			continue
		}
		client, reset, err := f.dial([]string{endpoint}, serverName, wire.ClusterPrefix(o.cluster))
		if err != nil {
			for name, i := range fresh {
				if o.instances[name] != i {
					i.client.Close()
				}
			}
			return err
		}
		i := &instance{name: u.Host, client: client, reset: reset, credentials: f.credentials}
		if old := o.instances[u.Host]; old != nil {
			i.lease = old.lease
		}
		fresh[u.Host] = i
	}
	o.replace(fresh)
	return nil
}

// replace makes fresh the configured instances, and retires those that are no
// longer among them. It needs o.mu.
func (o *Own) replace(fresh map[string]*instance) {
	for name, old := range o.instances {
		switch fresh[name] {
		case old:
		case nil:
			o.retired[name] = old
		default:
			old.client.Close()
		}
	}
	for name := range fresh {
		if again := o.retired[name]; again != nil {
			again.client.Close()
			delete(o.retired, name)
		}
	}
	o.instances, o.problem = fresh, nil
}

func (o *Own) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.instances) == 0 {
		o.problem = err
	}
}

// Problem returns why there are no instances, if so.
func (o *Own) Problem() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.problem
}

// Retire deletes the marker of an instance that is configured no more, so that
// nobody believes it any longer, and reports whether that was acknowledged. An
// instance that this process never knew cannot be retired by it.
func (o *Own) Retire(ctx context.Context, name string) (bool, error) {
	o.mu.Lock()
	i := o.retired[name]
	o.mu.Unlock()
	if i == nil {
		return false, nil
	}
	key := o.key(wire.KindMarker)
	if _, err := i.client.Delete(ctx, key); err != nil {
		return false, fmt.Errorf("take marker off %s: %w", name, unreachable(err))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.retired[name] == i {
		delete(o.retired, name)
		i.client.Close()
	}
	return true, nil
}

func (o *Own) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.instances {
		i.client.Close()
	}
	for _, i := range o.retired {
		i.client.Close()
	}
}

// Instances returns the names of the configured instances, sorted.
func (o *Own) Instances() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.instances))
}

// key names a record of the instance itself.
func (o *Own) key(kind wire.Kind) string { return wire.Key{Kind: kind, Cluster: o.cluster}.String() }

func (o *Own) claimKey(c claim.Claim) string {
	return wire.Key{Kind: wire.KindClaim, Cluster: o.cluster, Namespace: c.Namespace, ID: c.ID}.String()
}

func (o *Own) instance(name string) (*instance, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.instances[name]
	if i == nil {
		return nil, fmt.Errorf("instance %s of the own kvstore is not configured here", name)
	}
	return i, nil
}

// WriteClaim puts a claim into one instance (R2, and the mirror of R6).
func (o *Own) WriteClaim(ctx context.Context, name string, c claim.Claim) error {
	return o.WriteClaims(ctx, name, []claim.Claim{c})
}

// WriteClaims is WriteClaim for claims that arrive together, in one
// transaction. An error means that some of them may not be written.
func (o *Own) WriteClaims(ctx context.Context, name string, claims []claim.Claim) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	// A transaction may write a key once only.
	records := map[string]string{}
	for _, c := range claims {
		key := o.claimKey(c)
		value, err := wire.Marshal(ClaimRecord(c))
		if err != nil {
			return err
		}
		records[key] = string(value)
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(records)), txnSize) {
		ops := make([]clientv3.Op, 0, len(part))
		for _, key := range part {
			ops = append(ops, clientv3.OpPut(key, records[key]))
		}
		if _, err := i.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("write %d claims to %s: %w", len(claims), name, unreachable(err))
		}
	}
	return nil
}

// DeleteClaim removes one claim, by its own ID (R7, R9, R11).
func (o *Own) DeleteClaim(ctx context.Context, name string, c claim.Claim) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	key := o.claimKey(c)
	if _, err := i.client.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete claim %s from %s: %w", c.ID, name, unreachable(err))
	}
	return nil
}

// DeleteClaims is DeleteClaim for claims that go together, up to 100 of them in
// one transaction: every controller of the mesh hears of them at once.
func (o *Own) DeleteClaims(ctx context.Context, name string, claims []claim.Claim) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	keys := map[string]struct{}{}
	for _, c := range claims {
		keys[o.claimKey(c)] = struct{}{}
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(keys)), txnSize) {
		ops := make([]clientv3.Op, 0, len(part))
		for _, key := range part {
			ops = append(ops, clientv3.OpDelete(key))
		}
		if _, err := i.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("delete %d claims from %s: %w", len(claims), name, unreachable(err))
		}
	}
	return nil
}

// PutIncarnation begins a new life of the instance (R1 a): every earlier
// publisher is fenced from here on.
func (o *Own) PutIncarnation(ctx context.Context, name string, incarnation wire.Incarnation) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	key := o.key(wire.KindIncarnation)
	value, err := wire.Marshal(&incarnation)
	if err != nil {
		return err
	}
	if _, err := i.client.Put(ctx, key, string(value)); err != nil {
		return fmt.Errorf("begin incarnation in %s: %w", name, unreachable(err))
	}
	return nil
}

// Change is one write of a publication: a value, or a deletion if Value is empty.
type Change struct {
	Key   string
	Value string
}

// txnSize keeps a transaction below etcd's default --max-txn-ops of 128.
const txnSize = 100

// Publish writes changes, each transaction guarded by the incarnation (R1 d).
func (o *Own) Publish(ctx context.Context, name string, incarnation wire.Incarnation, changes []Change) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(changes, txnSize) {
		ops := make([]clientv3.Op, 0, len(part))
		for _, c := range part {
			if c.Value == "" {
				ops = append(ops, clientv3.OpDelete(c.Key))
			} else {
				ops = append(ops, clientv3.OpPut(c.Key, c.Value))
			}
		}
		if err := o.guarded(ctx, i, incarnation, ops...); err != nil {
			return fmt.Errorf("publish to %s: %w", name, err)
		}
	}
	return nil
}

// PutMarker declares the instance complete (R1 e), on a lease that the caller
// keeps alive with Alive.
func (o *Own) PutMarker(ctx context.Context, name string, incarnation wire.Incarnation) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	key := o.key(wire.KindMarker)
	value, err := wire.Marshal(&wire.Marker{Incarnation: incarnation.ID})
	if err != nil {
		return err
	}
	lease, err := i.client.Grant(ctx, MarkerTTL)
	if err != nil {
		return fmt.Errorf("grant lease in %s: %w", name, unreachable(err))
	}
	if err := o.guarded(ctx, i, incarnation, clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID))); err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	o.mu.Lock()
	i.lease = lease.ID
	o.mu.Unlock()
	return nil
}

// Alive keeps the marker's lease alive and checks that the incarnation still
// stands and is marked. An error means doubt: restore again (R1).
func (o *Own) Alive(ctx context.Context, name string, incarnation wire.Incarnation) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	o.mu.Lock()
	lease := i.lease
	o.mu.Unlock()
	if _, err := i.client.KeepAliveOnce(ctx, lease); err != nil {
		return fmt.Errorf("keep marker of %s alive: %w", name, unreachable(err))
	}
	value, err := wire.Marshal(&wire.Marker{Incarnation: incarnation.ID})
	if err != nil {
		return err
	}
	marker := o.key(wire.KindMarker)
	standing, err := wire.Marshal(&incarnation)
	if err != nil {
		return err
	}
	key := o.key(wire.KindIncarnation)
	response, err := i.client.Txn(ctx).If(
		clientv3.Compare(clientv3.Value(key), "=", string(standing)),
		clientv3.Compare(clientv3.Value(marker), "=", string(value)),
	).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("check %s: %w", name, unreachable(err))
	case !response.Succeeded:
		return fmt.Errorf("check %s: %w", name, errGuard)
	}
	return nil
}

// guarded runs ops in a transaction on the standing incarnation.
func (o *Own) guarded(ctx context.Context, i *instance, incarnation wire.Incarnation, ops ...clientv3.Op) error {
	standing, err := wire.Marshal(&incarnation)
	if err != nil {
		return err
	}
	key := o.key(wire.KindIncarnation)
	response, err := i.client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", string(standing))).Then(ops...).Commit()
	switch {
	case err != nil:
		return unreachable(err)
	case !response.Succeeded:
		return errGuard
	}
	return nil
}
