package mesh_test

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// rogue is the kvstore of a peer who runs another program in the place of etcd. Calls that a test does not replace
// are answered as by an empty etcd.
type rogue struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer

	list  func() *pb.RangeResponse
	txn   func(*pb.TxnRequest) (*pb.TxnResponse, error)
	watch func(send func(*pb.WatchResponse) error)
	lists atomic.Int64
}

func header() *pb.ResponseHeader { return &pb.ResponseHeader{ClusterId: 1, MemberId: 1, Revision: 5} }

func (r *rogue) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	r.lists.Add(1)
	if r.list != nil {
		return r.list(), nil
	}
	return &pb.RangeResponse{Header: header()}, nil
}

func (r *rogue) Txn(_ context.Context, request *pb.TxnRequest) (*pb.TxnResponse, error) {
	if r.txn != nil {
		return r.txn(request)
	}
	answer := &pb.TxnResponse{Header: header(), Succeeded: true}
	for range request.Success {
		answer.Responses = append(answer.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}})
	}
	return answer, nil
}

func (r *rogue) Watch(stream pb.Watch_WatchServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&pb.WatchResponse{Header: header(), Created: true}); err != nil {
		return err
	}
	if r.watch != nil {
		r.watch(stream.Send)
	}
	<-stream.Context().Done()
	return nil
}

// start serves it, and returns its address.
func (r *rogue) start(t *testing.T) string {
	t.Helper()
	host := loopback()
	dir := writeIdentity(t, certificate{name: "clustermesh-apiserver.cilium.io", hosts: []string{host}})
	pair := must(tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")))
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: authority().pool(), ClientAuth: tls.RequireAndVerifyClientCert})),
		grpc.MaxSendMsgSize(1<<30),
	)
	pb.RegisterKVServer(server, r)
	pb.RegisterWatchServer(server, r)
	listener := must(net.Listen("tcp", net.JoinHostPort(host, "0")))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// rogueSite has these rogues as peers beside the honest c3.
func rogueSite(t *testing.T, rogues map[string]*rogue) *site {
	t.Helper()
	honest := startStore(t, "c3")
	honest.fill(completeOf("c3"))
	here := newSite(t, nil)
	here.peer("c3", etcdFile(t, honest.address, writeIdentity(t, remote()), nil))
	for name, r := range rogues {
		here.peer(name, etcdFile(t, r.start(t), writeIdentity(t, remote()), nil))
	}
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c3")
	return here
}

// TestAnswersOfNoEtcd: etcd's client trusts its server, so each of these answers would end the process.
func TestAnswersOfNoEtcd(t *testing.T) {
	const noEtcd = "invalid: its kvstore cannot be read: it answers as no etcd does"
	kv := func(key string) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte(key), Value: []byte("x")} }
	ranges := func(parts ...*pb.ResponseOp) func(*pb.TxnRequest) (*pb.TxnResponse, error) {
		return func(*pb.TxnRequest) (*pb.TxnResponse, error) {
			return &pb.TxnResponse{Header: header(), Succeeded: true, Responses: parts}, nil
		}
	}
	all := func(part func() *pb.ResponseOp) func(*pb.TxnRequest) (*pb.TxnResponse, error) {
		return func(request *pb.TxnRequest) (*pb.TxnResponse, error) {
			answer := &pb.TxnResponse{Header: header(), Succeeded: true}
			for range request.Success {
				answer.Responses = append(answer.Responses, part())
			}
			return answer, nil
		}
	}
	peers := map[string]struct {
		rogue         *rogue
		fresh, cached string
	}{
		"a list without header": {&rogue{list: func() *pb.RangeResponse { return &pb.RangeResponse{} }}, "", noEtcd + " (no header)"},
		"pages without end": {&rogue{list: func() *pb.RangeResponse {
			return &pb.RangeResponse{Header: header(), More: true, Kvs: manyOf(kv("cilium/state/meshpdb/v1/c2/pods/shop/db/x"), 1000)}
		}}, "", noEtcd + " (a key that nobody asked for)"},
		"more than was asked for": {&rogue{list: func() *pb.RangeResponse {
			return &pb.RangeResponse{Header: header(), Kvs: manyOf(kv("cilium/state/meshpdb/v1/c2/pods/shop/db/x"), 1001)}
		}}, "", noEtcd + " (1001 keys of 1000)"},
		"a transaction without header": {&rogue{txn: func(*pb.TxnRequest) (*pb.TxnResponse, error) { return &pb.TxnResponse{Succeeded: true}, nil }},
			noEtcd + " (no header)", noEtcd + " (no header)"},
		"a transaction without parts": {&rogue{txn: ranges()}, noEtcd + " (0 parts of …)", noEtcd + " (0 parts of 1)"},
		"a transaction that failed": {&rogue{txn: func(*pb.TxnRequest) (*pb.TxnResponse, error) { return &pb.TxnResponse{Header: header()}, nil }},
			noEtcd + " (what has no condition has failed)", noEtcd + " (what has no condition has failed)"},
		"parts that were not asked for": {&rogue{txn: all(func() *pb.ResponseOp {
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}
		})}, noEtcd + " (no range)", noEtcd + " (no range)"},
		"parts that are none": {&rogue{txn: all(func() *pb.ResponseOp { return &pb.ResponseOp{} })}, noEtcd + " (no range)", noEtcd + " (no range)"},
		"an error of ten million letters": {&rogue{txn: func(*pb.TxnRequest) (*pb.TxnResponse, error) {
			return nil, status.Error(codes.FailedPrecondition, strings.Repeat("e", 10<<20))
		}}, "invalid: its kvstore …", "invalid: its kvstore …"},
		"an error that a terminal obeys": {&rogue{txn: func(*pb.TxnRequest) (*pb.TxnResponse, error) {
			return nil, status.Error(codes.FailedPrecondition, "\x1b[2Jgone\n")
		}}, `invalid: its kvstore cannot be read: \x1b[2Jgone\n`, `invalid: its kvstore cannot be read: \x1b[2Jgone\n`},
		"a huge answer": {&rogue{txn: func(*pb.TxnRequest) (*pb.TxnResponse, error) {
			return &pb.TxnResponse{Header: header(), Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
				Kvs: []*mvccpb.KeyValue{{Key: []byte("k"), Value: make([]byte, 17<<20)}}}}}}}, nil
		}}, "invalid: its kvstore cannot be read: …larger than max…", "invalid: its kvstore cannot be read: …larger than max…"},
	}
	rogues := map[string]*rogue{}
	for name, c := range peers {
		rogues[peerName(name)] = c.rogue
	}
	here := rogueSite(t, rogues)
	for name, c := range peers {
		if c.fresh != "" {
			here.await(c.fresh, here.fresh, peerName(name))
		}
		here.await(c.cached, here.cached, peerName(name))
		wantShort(t, here.cached(peerName(name)))
	}
	wantHonest(t, here, "beside all of them")
}

// peerName makes a cluster's name of what is wrong with it.
func peerName(name string) string {
	name = strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), " ", "-")
	return name[:min(len(name), 32)]
}

func wantShort(t *testing.T, sentence string) {
	t.Helper()
	if len(sentence) > 1000 || strings.ContainsAny(sentence, "\n\x1b") {
		t.Errorf("%d bytes: %.300q", len(sentence), sentence)
	}
}

func manyOf(kv *mvccpb.KeyValue, n int) []*mvccpb.KeyValue {
	all := make([]*mvccpb.KeyValue, n)
	for i := range all {
		all[i] = kv
	}
	return all
}

// TestEventsOfNoEtcd: the same of watches, which etcd's client reads by itself.
func TestEventsOfNoEtcd(t *testing.T) {
	t.Parallel()
	answers := map[string]*pb.WatchResponse{
		"no header":            {},
		"no key":               {Header: header(), Events: []*mvccpb.Event{{}}},
		"a deletion, no key":   {Header: header(), Events: []*mvccpb.Event{{Type: mvccpb.DELETE}}},
		"a fragment":           {Header: header(), Fragment: true, Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("k")}}}},
		"cancelled, no header": {Canceled: true, CancelReason: strings.Repeat("x", 1<<20)},
	}
	rogues := map[string]*rogue{}
	for name, answer := range answers {
		rogues[peerName(name)] = &rogue{watch: func(send func(*pb.WatchResponse) error) { _ = send(answer) }}
	}
	here := rogueSite(t, rogues)
	for name, r := range rogues {
		// Every such watch ends, and everything begins anew with a list.
		before := r.lists.Load()
		await(t, "listed again", func() string {
			if r.lists.Load() > before {
				return "listed again"
			}
			return "waiting"
		})
		wantShort(t, here.cached(name))
	}
	wantHonest(t, here, "beside all of them")
}

// TestAFloodIsHeldUp: a peer that sends changes without end is taken in no faster than it can be, and is held up
// instead of being remembered.
func TestAFloodIsHeldUp(t *testing.T) {
	if testing.Short() {
		t.Skip("sends for seconds")
	}
	var sent atomic.Int64
	event := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("cilium/state/meshpdb/v1/c2/pods/elsewhere/db/x"), Value: make([]byte, 1<<20), ModRevision: 6}}
	started := make(chan time.Time, 1)
	r := &rogue{watch: func(send func(*pb.WatchResponse) error) {
		started <- time.Now()
		for send(&pb.WatchResponse{Header: header(), Events: []*mvccpb.Event{event}}) == nil {
			sent.Add(1 << 20)
		}
	}}
	here := rogueSite(t, map[string]*rogue{"c2": r})
	start := <-started
	const enough = 40 << 20
	await(t, "sent", func() string {
		if sent.Load() > enough {
			return "sent"
		}
		return "sending"
	})
	// 16 MiB at once, some that are under way, and 4 MiB in each second.
	if took, least := time.Since(start), 4*time.Second; took < least {
		t.Errorf("%d MiB were taken in within %s", sent.Load()>>20, took)
	}
	if now := heap(); now > heapLimit {
		t.Errorf("%d MiB are in use", now)
	}
	wantHonest(t, here, "flood")
}
