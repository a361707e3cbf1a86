package kvstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

// TestAnswersAsEtcdDoes sends the same random requests to a Store and to a real
// etcd, and compares every answer, and at last what every watch tells.
func TestAnswersAsEtcdDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real etcd")
	}
	client := startEtcd(t)
	real := etcd{kv: pb.NewKVClient(client.ActiveConnection()), lease: pb.NewLeaseClient(client.ActiveConnection())}
	first, err := client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	s := New(first.Header.ClusterId, first.Header.MemberId)
	if first.Header.Revision != s.Revision() {
		t.Fatalf("a real etcd begins at revision %d, the simulated one at %d", first.Header.Revision, s.Revision())
	}
	const requests = 4000
	g := &generator{Rand: rand.New(rand.NewPCG(1, 2)), store: s}
	kinds := map[string]int{}
	for n := range requests {
		request := g.next()
		want, wantErr := real.do(t.Context(), request)
		got, gotErr := simulate(s, request)
		one, two := describe(got, gotErr), describe(want, wantErr)
		if one != two {
			t.Fatalf("request %d, %T %v:\nsimulated %s\nreal      %s", n, request, request, one, two)
		}
		kind := fmt.Sprintf("%T", request)
		if gotErr != nil {
			kind += ": " + status.Convert(gotErr).Message()
		}
		kinds[kind]++
		if n%500 == 499 {
			g.compareWatches(t, real, client)
		}
	}
	for kind, count := range kinds {
		t.Logf("%5d %s", count, kind)
	}
	for _, want := range []string{
		"*etcdserverpb.TxnRequest", "*etcdserverpb.TxnRequest: etcdserver: duplicate key given in txn request",
		"*etcdserverpb.TxnRequest: etcdserver: requested lease not found", "*etcdserverpb.PutRequest: etcdserver: key is not provided",
		"*etcdserverpb.RangeRequest: etcdserver: mvcc: required revision is a future revision",
		"*etcdserverpb.RangeRequest: etcdserver: mvcc: required revision has been compacted",
		"*etcdserverpb.LeaseRevokeRequest", "*etcdserverpb.LeaseKeepAliveRequest", "*etcdserverpb.CompactionRequest",
	} {
		if kinds[want] < 5 {
			t.Errorf("%d of %q: the comparison proves little", kinds[want], want)
		}
	}
}

// generator draws requests over few keys, so that they meet.
type generator struct {
	*rand.Rand
	store *Store
	lease int64
}

func (g *generator) key() []byte {
	if g.IntN(60) == 0 {
		return nil
	}
	return []byte(fmt.Sprintf("k/%d/%d", g.IntN(3), g.IntN(6)))
}

// span is a key, a prefix or everything from a key on.
func (g *generator) span() (key, end []byte) {
	switch g.IntN(5) {
	case 0, 1:
		prefix := fmt.Sprintf("k/%d/", g.IntN(3))
		return []byte(prefix), []byte(clientv3.GetPrefixRangeEnd(prefix))
	case 2:
		return g.key(), []byte{0}
	default:
		return g.key(), nil
	}
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{}
	r.Key, r.RangeEnd = g.span()
	if g.IntN(3) == 0 {
		r.Limit = int64(g.IntN(4))
	}
	if g.IntN(3) == 0 {
		r.Revision = max(0, g.store.Revision()+3-int64(g.IntN(40)))
	}
	r.KeysOnly, r.CountOnly = g.IntN(9) == 0, g.IntN(9) == 0
	return r
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: []byte(fmt.Sprint(g.IntN(4))), PrevKv: g.IntN(4) == 0}
	if g.IntN(3) == 0 {
		r.Lease = g.someLease()
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.IntN(4) == 0}
	if r.Key, r.RangeEnd = g.span(); g.IntN(3) > 0 {
		r.RangeEnd = nil
	}
	return r
}

// someLease is mostly one that stands.
func (g *generator) someLease() int64 {
	return max(1, g.lease-int64(g.IntN(6)))
}

func (g *generator) ops() []*pb.RequestOp {
	var all []*pb.RequestOp
	for range g.IntN(4) {
		switch g.IntN(4) {
		case 0:
			all = append(all, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()}})
		case 1, 2:
			all = append(all, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}})
		default:
			all = append(all, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}})
		}
	}
	return all
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	if g.IntN(4) == 0 {
		c.Key, c.RangeEnd = g.span()
	}
	revision := max(0, g.store.Revision()-int64(g.IntN(10)))
	switch c.Target {
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: []byte(fmt.Sprint(g.IntN(4)))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: revision}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: revision}
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.IntN(4))}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.someLease()}
	}
	return c
}

func (g *generator) next() any {
	switch g.IntN(20) {
	case 0, 1, 2:
		return g.rangeRequest()
	case 3, 4, 5:
		return g.put()
	case 6, 7:
		return g.deleteRange()
	case 8:
		g.lease++
		return &pb.LeaseGrantRequest{ID: g.lease, TTL: 3600}
	case 9:
		return &pb.LeaseKeepAliveRequest{ID: g.someLease()}
	case 10:
		return &pb.LeaseRevokeRequest{ID: g.someLease()}
	case 11:
		if g.IntN(5) == 0 {
			return &pb.CompactionRequest{Revision: g.store.Revision() + 2 - int64(g.IntN(30))}
		}
		return g.put()
	default:
		r := &pb.TxnRequest{Success: g.ops(), Failure: g.ops()}
		for range g.IntN(3) {
			r.Compare = append(r.Compare, g.compare())
		}
		return r
	}
}

// compareWatches watches random ranges from random revisions on, up to a last
// write to each range.
func (g *generator) compareWatches(t *testing.T, real etcd, client *clientv3.Client) {
	t.Helper()
	for range 10 {
		key, end := g.span()
		if len(key) == 0 {
			continue
		}
		last := &pb.PutRequest{Key: key, Value: []byte("last")}
		if _, err := g.store.Put(last); err != nil {
			t.Fatal(err)
		}
		if _, err := real.do(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		from := max(1, g.store.Revision()-int64(g.IntN(60)))
		want, wantErr := g.store.Events(key, end, from)
		got, gotErr := watched(t, client, key, end, from, g.store.Revision())
		if (wantErr == nil) != (gotErr == nil) {
			t.Fatalf("watch %q to %q from %d: simulated %v, real %v", key, end, from, wantErr, gotErr)
		}
		one, two := "", ""
		for _, e := range want {
			one += e.String() + "\n"
		}
		for _, e := range got {
			two += (*mvccpb.Event)(e).String() + "\n"
		}
		if one != two {
			t.Fatalf("watch %q to %q from %d:\nsimulated\n%s\nreal\n%s", key, end, from, one, two)
		}
	}
}

func watched(t *testing.T, client *clientv3.Client, key, end []byte, from, to int64) ([]*clientv3.Event, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	options := []clientv3.OpOption{clientv3.WithRev(from)}
	if len(end) > 0 {
		options = append(options, clientv3.WithRange(string(end)))
	}
	var all []*clientv3.Event
	for answer := range client.Watch(ctx, string(key), options...) {
		if answer.Err() != nil {
			return nil, answer.Err()
		}
		all = append(all, answer.Events...)
		if n := len(all); n > 0 && all[n-1].Kv.ModRevision >= to {
			break
		}
	}
	return all, ctx.Err()
}

// etcd is the real one, at the level of its requests.
type etcd struct {
	kv    pb.KVClient
	lease pb.LeaseClient
}

type answer interface{ String() string }

func (e etcd) do(ctx context.Context, request any) (answer, error) {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return e.kv.Range(ctx, r)
	case *pb.PutRequest:
		return e.kv.Put(ctx, r)
	case *pb.DeleteRangeRequest:
		return e.kv.DeleteRange(ctx, r)
	case *pb.TxnRequest:
		return e.kv.Txn(ctx, r)
	case *pb.CompactionRequest:
		return e.kv.Compact(ctx, r)
	case *pb.LeaseGrantRequest:
		return e.lease.LeaseGrant(ctx, r)
	case *pb.LeaseRevokeRequest:
		return e.lease.LeaseRevoke(ctx, r)
	case *pb.LeaseKeepAliveRequest:
		stream, err := e.lease.LeaseKeepAlive(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(r); err != nil {
			return nil, err
		}
		defer func() { _ = stream.CloseSend() }()
		return stream.Recv()
	}
	return nil, fmt.Errorf("%T is no request", request)
}

func simulate(s *Store, request any) (answer, error) {
	now := time.Unix(0, 0)
	switch r := request.(type) {
	case *pb.RangeRequest:
		return s.Range(r)
	case *pb.PutRequest:
		return s.Put(r)
	case *pb.DeleteRangeRequest:
		return s.DeleteRange(r)
	case *pb.TxnRequest:
		return s.Txn(r)
	case *pb.CompactionRequest:
		return s.Compact(r)
	case *pb.LeaseGrantRequest:
		return s.LeaseGrant(r, now)
	case *pb.LeaseRevokeRequest:
		return s.LeaseRevoke(r)
	case *pb.LeaseKeepAliveRequest:
		return s.LeaseKeepAlive(r, now), nil
	}
	return nil, fmt.Errorf("%T is no request", request)
}

func describe(a answer, err error) string {
	if err != nil {
		return status.Convert(err).Message()
	}
	return a.String()
}

// startEtcd starts the etcd that the checkout's tools name, without TLS.
func startEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	find := exec.CommandContext(t.Context(), "go", "tool", "-n", "go.etcd.io/etcd/server/v3")
	find.Dir = filepath.Join("..", "..", "..", ".tools", "kubernetes")
	// The flags of e2e/sandbox, to share what it has compiled.
	find.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-trimpath -buildvcs=false '-ldflags=-s -w'")
	out, err := find.Output()
	if err != nil {
		t.Fatalf("build etcd: %v", err)
	}
	host := fmt.Sprintf("127.%d.%d.%d", 16+rand.IntN(200), rand.IntN(250), 1+rand.IntN(250))
	client, peer := "http://"+net.JoinHostPort(host, "2379"), "http://"+net.JoinHostPort(host, "2380")
	var log bytes.Buffer
	cmd := exec.Command(strings.TrimSpace(string(out)), "--data-dir="+t.TempDir(), "--name=one", "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=one="+peer, "--unsafe-no-fsync", "--log-level=error")
	cmd.Env, cmd.Stderr = []string{}, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel kills the child when the thread that made it ends.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() && log.Len() > 0 {
			t.Log(log.String())
		}
	})
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := c.Get(ctx, "x"); err == nil {
			return c
		} else if ctx.Err() != nil {
			t.Fatalf("etcd does not answer: %v", err)
		}
	}
}
