package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/simulation/kvstore"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// instance is one clustermesh-apiserver pod of a cluster, with an etcd of its
// own. It begins empty each time that it starts.
type instance struct {
	*world
	cluster *cluster
	name    string
	store   *kvstore.Store
	// up: it runs. gone: it never will again.
	up, gone bool
	// life counts its starts.
	life    int
	clients []*storeClient
	// expiry is for when the end of a lease is looked for.
	expiry time.Duration
}

// begin starts the instance, empty.
func (i *instance) begin() {
	i.life++
	i.up = true
	cluster, member := uint64(1), uint64(1)
	if i.Identified {
		cluster, member = i.rand.Uint64(), i.rand.Uint64()
	}
	i.store = kvstore.New(cluster, member)
	i.cluster.export(i)
}

// stop ends it, and all that it held.
func (i *instance) stop() {
	i.up = false
	i.store = nil
	for _, k := range slices.Clone(i.clients) {
		k.disconnect()
	}
}

// changed lets what a request changed be seen.
func (i *instance) changed() {
	for _, k := range i.clients {
		k.pump()
	}
	if next := i.store.NextExpiry(); !next.IsZero() {
		due := next.Sub(i.start)
		if i.expiry > i.now() && i.expiry <= due {
			return
		}
		i.expiry = due
		life := i.life
		i.at(due, i.name+" looks for leases", func() bool {
			if i.life == life && i.up {
				i.store.Expire(time.Now())
				i.changed()
			}
			return false
		})
	}
}

// storeClient is the network side of one etcd client of a process: it leads to
// one instance, or through a Service to any of a peer's.
type storeClient struct {
	process *process
	link    link
	name    string
	// choose finds an instance to connect to, nil if there is none.
	choose  func() *instance
	current *instance
	life    int
	watches []*watch
	// severedUntil: this connection cannot be made.
	severedUntil time.Duration
}

func (p *process) newClient(link link, name string, choose func() *instance) mesh.Client {
	k := &storeClient{process: p, link: link, name: name, choose: choose}
	p.clients = append(p.clients, k)
	c := clientv3.NewCtxClient(p.ctx)
	c.KV = clientv3.NewKVFromKVClient(k, c)
	c.Watcher = k
	c.Lease = leases{k}
	return mesh.Client{Client: c, Reset: k.reset}
}

// reset ends the connection because its user wants another one.
func (k *storeClient) reset() {
	_, _ = do[bool](k.process.ctx, &call{process: k.process, key: k.name + " is reset", local: true, effect: func() (any, error) {
		k.disconnect()
		return true, nil
	}})
}

// connected returns the instance at the other end, nil if there is none now.
func (k *storeClient) connected() *instance {
	if k.current != nil && k.current.up && k.current.life == k.life {
		return k.current
	}
	k.current = k.choose()
	if k.current != nil {
		k.life = k.current.life
		k.current.clients = append(k.current.clients, k)
	}
	return k.current
}

// disconnect ends the connection; watches go on once there is another one.
func (k *storeClient) disconnect() {
	i := k.current
	if i == nil {
		return
	}
	i.clients = slices.DeleteFunc(i.clients, func(o *storeClient) bool { return o == k })
	k.current = nil
	if k.process.isDead() {
		return
	}
	w := k.process.world
	w.later(w.between(100*time.Millisecond, 1500*time.Millisecond), k.name+" reconnects", k.reconnect)
}

func (k *storeClient) reconnect() {
	if k.process.isDead() {
		return
	}
	if k.cut() || k.connected() == nil {
		w := k.process.world
		w.later(w.between(100*time.Millisecond, 1500*time.Millisecond), k.name+" reconnects", k.reconnect)
		return
	}
	k.pump()
}

// cut reports whether the network between the process and what it connects to is down.
func (k *storeClient) cut() bool {
	now := k.process.now()
	return k.severedUntil > now || k.link == toPeer && k.process.cutUntil > now
}

// storeCall performs a request at whatever instance the client is led to.
func storeCall[A any](ctx context.Context, k *storeClient, what string, effect func(*kvstore.Store) (A, error)) (A, error) {
	return do[A](ctx, &call{
		process: k.process, link: k.link, key: k.name + " " + what, lost: errUnavailable,
		effect: func() (any, error) {
			if k.cut() {
				return nil, errUnavailable
			}
			i := k.connected()
			if i == nil {
				return nil, errUnavailable
			}
			before := i.store.Revision()
			a, err := effect(i.store)
			if i.store.Revision() != before {
				i.changed()
			}
			return a, err
		},
	})
}

// Range implements pb.KVClient.
func (k *storeClient) Range(ctx context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	what := fmt.Sprintf("get %s %s %d %d", r.Key, r.RangeEnd, r.Limit, r.Revision)
	return storeCall(ctx, k, what, func(s *kvstore.Store) (*pb.RangeResponse, error) { return s.Range(r) })
}

// Put implements pb.KVClient.
func (k *storeClient) Put(ctx context.Context, r *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	what := fmt.Sprintf("put %s %s", r.Key, r.Value)
	return storeCall(ctx, k, what, func(s *kvstore.Store) (*pb.PutResponse, error) { return s.Put(r) })
}

// DeleteRange implements pb.KVClient.
func (k *storeClient) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	what := fmt.Sprintf("delete %s %s", r.Key, r.RangeEnd)
	return storeCall(ctx, k, what, func(s *kvstore.Store) (*pb.DeleteRangeResponse, error) { return s.DeleteRange(r) })
}

// Txn implements pb.KVClient.
func (k *storeClient) Txn(ctx context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return storeCall(ctx, k, describeTxn(r), func(s *kvstore.Store) (*pb.TxnResponse, error) { return s.Txn(r) })
}

// describeTxn tells transactions apart by what they do, not by the order of
// their operations, which may come from a map.
func describeTxn(r *pb.TxnRequest) string {
	var sum uint64
	add := func(parts ...[]byte) {
		h := fnv.New64a()
		for _, p := range parts {
			_, _ = h.Write(p)
			_, _ = h.Write([]byte{0xff})
		}
		sum += h.Sum64()
	}
	puts, deletes, gets := 0, 0, 0
	for _, op := range r.Success {
		switch {
		case op.GetRequestPut() != nil:
			puts++
			add(op.GetRequestPut().Key, op.GetRequestPut().Value)
		case op.GetRequestDeleteRange() != nil:
			deletes++
			add(op.GetRequestDeleteRange().Key, op.GetRequestDeleteRange().RangeEnd)
		case op.GetRequestRange() != nil:
			gets++
			add(op.GetRequestRange().Key, op.GetRequestRange().RangeEnd)
		}
	}
	for _, c := range r.Compare {
		add(c.Key, c.GetValue())
	}
	return fmt.Sprintf("txn %d compare %d get %d put %d delete %x", len(r.Compare), gets, puts, deletes, sum)
}

// Compact implements pb.KVClient; nobody of ours compacts.
func (k *storeClient) Compact(context.Context, *pb.CompactionRequest, ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return nil, errors.ErrUnsupported
}

// leases is the lease side of a client.
type leases struct{ *storeClient }

// Grant implements clientv3.Lease.
func (l leases) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return storeCall(ctx, l.storeClient, "grant lease", func(s *kvstore.Store) (*clientv3.LeaseGrantResponse, error) {
		r, err := s.LeaseGrant(&pb.LeaseGrantRequest{TTL: ttl}, time.Now())
		if err != nil {
			return nil, err
		}
		return &clientv3.LeaseGrantResponse{ResponseHeader: r.Header, ID: clientv3.LeaseID(r.ID), TTL: r.TTL}, nil
	})
}

// KeepAliveOnce implements clientv3.Lease. Etcd's client tries again for as
// long as its context lasts, unless the lease is gone.
func (l leases) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	for {
		r, err := storeCall(ctx, l.storeClient, fmt.Sprintf("keep lease %d alive", id), func(s *kvstore.Store) (*pb.LeaseKeepAliveResponse, error) {
			return s.LeaseKeepAlive(&pb.LeaseKeepAliveRequest{ID: int64(id)}, time.Now()), nil
		})
		switch {
		case err == nil && r.TTL <= 0:
			return nil, rpctypes.ErrLeaseNotFound
		case err == nil:
			return &clientv3.LeaseKeepAliveResponse{ResponseHeader: r.Header, ID: id, TTL: r.TTL}, nil
		case ctx.Err() != nil || l.process.isDead():
			return nil, err
		}
	}
}

// Revoke, TimeToLive, Leases, KeepAlive: nobody of ours asks for them.
func (l leases) Revoke(context.Context, clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return nil, errors.ErrUnsupported
}

// TimeToLive implements clientv3.Lease.
func (l leases) TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return nil, errors.ErrUnsupported
}

// Leases implements clientv3.Lease.
func (l leases) Leases(context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return nil, errors.ErrUnsupported
}

// KeepAlive implements clientv3.Lease.
func (l leases) KeepAlive(context.Context, clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	return nil, errors.ErrUnsupported
}

// Close implements clientv3.Lease.
func (l leases) Close() error { return nil }

// claims returns the keys of the claims that the instance shows.
func (i *instance) claims() []string {
	prefix := wire.ClusterPrefix(i.cluster.name) + "claims/"
	r, err := i.store.Range(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), KeysOnly: true})
	if err != nil {
		return []string{err.Error()}
	}
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}
