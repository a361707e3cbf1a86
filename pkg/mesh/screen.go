package mesh

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// screen stands between the etcd client and a store, at the only place through which every call passes, and
// trusts neither side. Requests may write what is under writable and nothing else, whoever makes them. Answers
// must have the parts that were asked for, and come no faster than anybody can take them in: whoever runs a
// peer's store may answer anything, where etcd's client expects what an etcd would say and would panic, or
// hold what it has been sent until memory is full.
type screen struct {
	// writable is the only prefix that may be written; empty: none.
	writable string
}

const (
	// watchRate is what a watch may bring, in bytes per second, once watchBurst is spent: some 20,000 records.
	watchRate  = 4 << 20
	watchBurst = maxMessage
	// watchLeast is what each of its messages counts as, for each wakes us: 1000 a second.
	watchLeast = 4 << 10
	// maxHeaders bounds the headers of an answer, and with them an error's words, in bytes.
	maxHeaders = 64 << 10
)

func (s screen) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(s.call), grpc.WithChainStreamInterceptor(s.stream),
		grpc.WithMaxHeaderListSize(maxHeaders),
	}
}

func (s screen) call(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if err := s.permit(request); err != nil {
		return err
	}
	if err := invoke(ctx, method, request, answer, conn, options...); err != nil {
		return err
	}
	return complete(request, answer)
}

// outsideError is a request that must never be made.
type outsideError struct{ what, prefix string }

func (e *outsideError) Error() string {
	if e.prefix == "" {
		return e.what + ": this store is for reading only"
	}
	return fmt.Sprintf("%s: outside %q", e.what, e.prefix)
}

// permit lets reads pass, writes under the prefix, and leases for them. Everything else that the admin certificate
// would permit, all that later versions of etcd may bring included, is refused.
func (s screen) permit(request any) error {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return nil
	case *pb.PutRequest:
		return s.within(r.Key, nil)
	case *pb.DeleteRangeRequest:
		return s.within(r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, op := range ops {
				if err := s.permit(part(op)); err != nil {
					return err
				}
			}
		}
		return nil
	case *pb.LeaseGrantRequest:
		if s.writable != "" {
			return nil
		}
	}
	return &outsideError{what: fmt.Sprintf("request %T", request), prefix: s.writable}
}

func part(op *pb.RequestOp) any {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return r.RequestRange
	case *pb.RequestOp_RequestPut:
		return r.RequestPut
	case *pb.RequestOp_RequestDeleteRange:
		return r.RequestDeleteRange
	case *pb.RequestOp_RequestTxn:
		return r.RequestTxn
	}
	return nil
}

// within reports whether key, or the range up to end, lies under the prefix.
func (s screen) within(key, end []byte) error {
	inside := s.writable != "" && strings.HasPrefix(string(key), s.writable) && len(key) > len(s.writable)
	// No range is ever deleted. One that were would have to end under the prefix as well.
	if inside && len(end) == 0 {
		return nil
	}
	return &outsideError{what: fmt.Sprintf("write %q", key), prefix: s.writable}
}

// malformed is an answer that no etcd gives.
func malformed(what string) error {
	return status.Errorf(codes.DataLoss, "it answers as no etcd does (%s)", what)
}

// complete checks that an answer has all parts that the callers and etcd's client rely on.
func complete(request, answer any) error {
	if r, ok := answer.(interface{ GetHeader() *pb.ResponseHeader }); ok && r.GetHeader() == nil {
		return malformed("no header")
	}
	switch a := answer.(type) {
	case *pb.RangeResponse:
		r, _ := request.(*pb.RangeRequest)
		return completeRange(r, a)
	case *pb.TxnResponse:
		return completeTxn(request, a)
	}
	return nil
}

// completeRange also keeps lists going forward: the next page begins where the last one has ended.
func completeRange(r *pb.RangeRequest, a *pb.RangeResponse) error {
	switch {
	case r == nil || a == nil:
		return malformed("no range")
	case r.Limit > 0 && int64(len(a.Kvs)) > r.Limit:
		return malformed(fmt.Sprintf("%d keys of %d", len(a.Kvs), r.Limit))
	}
	for _, kv := range a.Kvs {
		if kv == nil {
			return malformed("no key")
		}
		if !asked(r, kv.Key) {
			return malformed("a key that nobody asked for")
		}
	}
	return nil
}

// asked reports whether a range covers a key, in the words of etcd's API: no end is one key, a zero byte is no end.
func asked(r *pb.RangeRequest, key []byte) bool {
	switch {
	case len(r.RangeEnd) == 0:
		return bytes.Equal(key, r.Key)
	case len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0:
		return bytes.Compare(key, r.Key) >= 0
	}
	return bytes.Compare(key, r.Key) >= 0 && bytes.Compare(key, r.RangeEnd) < 0
}

func completeTxn(request any, a *pb.TxnResponse) error {
	r, ok := request.(*pb.TxnRequest)
	if !ok {
		return malformed("a transaction that nobody asked for")
	}
	ops := r.Success
	if !a.Succeeded {
		ops = r.Failure
	}
	if !a.Succeeded && len(r.Compare) == 0 {
		return malformed("what has no condition has failed")
	}
	if len(a.Responses) != len(ops) {
		return malformed(fmt.Sprintf("%d parts of %d", len(a.Responses), len(ops)))
	}
	for i, op := range ops {
		read, ok := part(op).(*pb.RangeRequest)
		if !ok {
			continue
		}
		if err := completeRange(read, a.Responses[i].GetResponseRange()); err != nil {
			return err
		}
	}
	return nil
}

// streams that may be opened; their requests write nothing.
const (
	watchMethod     = "/etcdserverpb.Watch/Watch"
	keepAliveMethod = "/etcdserverpb.Lease/LeaseKeepAlive"
)

func (s screen) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	if method != watchMethod && (method != keepAliveMethod || s.writable == "") {
		return nil, &outsideError{what: "stream " + method, prefix: s.writable}
	}
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, err
	}
	return &screened{ClientStream: stream, limit: rate.NewLimiter(watchRate, watchBurst)}, nil
}

// screened is a stream whose messages are checked and metered.
type screened struct {
	grpc.ClientStream
	limit *rate.Limiter
}

// RecvMsg implements grpc.ClientStream.
func (s *screened) RecvMsg(message any) error {
	if err := s.ClientStream.RecvMsg(message); err != nil {
		return err
	}
	if err := completeEvents(message); err != nil {
		return err
	}
	size := watchLeast
	if m, ok := message.(interface{ Size() int }); ok {
		size = min(max(size, m.Size()), watchBurst)
	}
	return s.wait(size)
}

// wait holds a message back, and with it the sender, until it is due: etcd's client would hold all that has come.
func (s *screened) wait(size int) error {
	reserved := s.limit.ReserveN(time.Now(), size)
	timer := time.NewTimer(reserved.Delay())
	defer timer.Stop()
	select {
	case <-s.Context().Done():
		reserved.Cancel()
		return status.FromContextError(s.Context().Err()).Err()
	case <-timer.C:
		return nil
	}
}

func completeEvents(message any) error {
	if err := complete(nil, message); err != nil {
		return err
	}
	w, ok := message.(*pb.WatchResponse)
	if !ok {
		return nil
	}
	if w.Fragment {
		// It would be held until its last part comes.
		return malformed("a part of events that nobody asked to be cut")
	}
	for _, e := range w.Events {
		if e == nil || e.Kv == nil {
			return malformed("an event without a key")
		}
	}
	return nil
}
