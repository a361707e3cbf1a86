package kvstore

import (
	"bytes"
	"slices"
	"sort"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MaxTxnOps is etcd's default --max-txn-ops.
const MaxTxnOps = 128

// Store is one etcd. It begins empty, at revision 1.
type Store struct {
	// ClusterID and MemberID stand in every answer.
	ClusterID, MemberID uint64

	revision  int64
	compacted int64
	// keys that ever stood, sorted.
	keys     []string
	versions map[string][]version
	// events in the order of revisions, from the oldest that is not compacted.
	events []*mvccpb.Event
	leases map[int64]*lease
}

// version is a key from one revision on; kv is nil while the key is deleted.
type version struct {
	revision int64
	kv       *mvccpb.KeyValue
}

// New returns an empty store.
func New(clusterID, memberID uint64) *Store {
	return &Store{
		ClusterID: clusterID, MemberID: memberID, revision: 1,
		versions: map[string][]version{}, leases: map[int64]*lease{},
	}
}

// Revision returns that of the last change.
func (s *Store) Revision() int64 { return s.revision }

// Header returns what etcd puts at the head of an answer now.
func (s *Store) Header() *pb.ResponseHeader { return s.header(s.revision) }

func (s *Store) header(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.ClusterID, MemberId: s.MemberID, Revision: revision, RaftTerm: 2}
}

// at returns the value of a key at a revision, nil if there is none.
func (s *Store) at(key string, revision int64) *mvccpb.KeyValue {
	all := s.versions[key]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].revision <= revision {
			return all[i].kv
		}
	}
	return nil
}

// within returns the keys of a range that ever stood, by etcd's rules for its end.
func (s *Store) within(key, end []byte) []string {
	if len(end) == 0 {
		if _, known := s.versions[string(key)]; !known {
			return nil
		}
		return []string{string(key)}
	}
	from := sort.SearchStrings(s.keys, string(key))
	if bytes.Equal(end, []byte{0}) {
		return s.keys[from:]
	}
	to := sort.SearchStrings(s.keys, string(end))
	return s.keys[from:max(from, to)]
}

// change is what one request writes: one revision, however many keys.
type change struct {
	*Store
	revision int64
	sub      int
}

func (s *Store) begin() *change { return &change{Store: s, revision: s.revision + 1} }

// reads returns the revision that a read inside the change sees.
func (c *change) reads() int64 {
	if c.sub > 0 {
		return c.revision
	}
	return c.revision - 1
}

// end makes the change the newest revision, if it changed anything.
func (c *change) end() {
	if c.sub > 0 {
		c.Store.revision = c.revision
	}
}

func (c *change) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	key := string(r.Key)
	old := c.at(key, c.revision)
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: c.revision, ModRevision: c.revision, Version: 1}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		c.detach(old.Lease, key)
	}
	if r.Lease != 0 {
		c.leases[r.Lease].keys[key] = true
	}
	c.record(key, version{c.revision, kv}, &mvccpb.Event{Type: mvccpb.PUT, Kv: kv})
	response := &pb.PutResponse{Header: c.header(c.revision)}
	if r.PrevKv {
		response.PrevKv = old
	}
	return response, nil
}

func (c *change) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	response := &pb.DeleteRangeResponse{}
	for _, key := range slices.Clone(c.within(r.Key, r.RangeEnd)) {
		old := c.at(key, c.revision)
		if old == nil {
			continue
		}
		response.Deleted++
		if r.PrevKv {
			response.PrevKvs = append(response.PrevKvs, old)
		}
		c.detach(old.Lease, key)
		c.record(key, version{c.revision, nil}, &mvccpb.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: c.revision}})
	}
	response.Header = c.header(c.reads())
	return response
}

func (c *change) record(key string, v version, e *mvccpb.Event) {
	if _, known := c.versions[key]; !known {
		c.keys = slices.Insert(c.keys, sort.SearchStrings(c.keys, key), key)
	}
	c.versions[key] = append(c.versions[key], v)
	c.events = append(c.events, e)
	c.sub++
}

// Range answers a read.
func (s *Store) Range(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := s.checkRange(r); err != nil {
		return nil, err
	}
	return s.rangeAt(r, s.revision)
}

// rangeAt reads as of the current revision, which a transaction's own writes
// have moved.
func (s *Store) rangeAt(r *pb.RangeRequest, current int64) (*pb.RangeResponse, error) {
	revision := current
	if r.Revision > 0 {
		switch revision = r.Revision; {
		case revision > current:
			return nil, rpctypes.ErrGRPCFutureRev
		case revision < s.compacted:
			return nil, rpctypes.ErrGRPCCompacted
		}
	}
	response := &pb.RangeResponse{Header: s.header(current)}
	for _, key := range s.within(r.Key, r.RangeEnd) {
		kv := s.at(key, revision)
		if kv == nil {
			continue
		}
		response.Count++
		switch {
		case r.CountOnly:
		case r.Limit > 0 && int64(len(response.Kvs)) == r.Limit:
			response.More = true
		case r.KeysOnly:
			bare := *kv
			bare.Value = nil
			response.Kvs = append(response.Kvs, &bare)
		default:
			response.Kvs = append(response.Kvs, kv)
		}
	}
	return response, nil
}

func (s *Store) checkRange(r *pb.RangeRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.SortOrder != pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_KEY || r.SortOrder == pb.RangeRequest_DESCEND,
		r.MinModRevision != 0, r.MaxModRevision != 0, r.MinCreateRevision != 0, r.MaxCreateRevision != 0:
		return unimplemented("this range request")
	}
	return nil
}

// Put writes one key.
func (s *Store) Put(r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := s.checkPut(r); err != nil {
		return nil, err
	}
	c := s.begin()
	defer c.end()
	return c.put(r)
}

func (s *Store) checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreLease || r.IgnoreValue:
		return unimplemented("this put request")
	case r.Lease != 0 && s.leases[r.Lease] == nil:
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return nil
}

// DeleteRange deletes keys.
func (s *Store) DeleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	c := s.begin()
	defer c.end()
	return c.deleteRange(r), nil
}

// Compact forgets what was overwritten before a revision.
func (s *Store) Compact(r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	switch {
	case r.Revision <= s.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	case r.Revision > s.revision:
		return nil, rpctypes.ErrGRPCFutureRev
	}
	s.compacted = r.Revision
	s.events = slices.DeleteFunc(s.events, func(e *mvccpb.Event) bool { return e.Kv.ModRevision < r.Revision })
	for key, all := range s.versions {
		// The last one before the revision still stands at it.
		first := 0
		for i, v := range all {
			if v.revision <= r.Revision {
				first = i
			}
		}
		if all = all[first:]; len(all) == 1 && all[0].kv == nil && all[0].revision <= r.Revision {
			delete(s.versions, key)
			at := sort.SearchStrings(s.keys, key)
			s.keys = slices.Delete(s.keys, at, at+1)
			continue
		}
		s.versions[key] = all
	}
	return &pb.CompactionResponse{Header: s.Header()}, nil
}

// Compacted returns the revision of the last compaction: a watch from an
// earlier one is cancelled.
func (s *Store) Compacted() int64 { return s.compacted }

// Events returns what happened to a range from a revision on, oldest first. It
// fails if some of that was compacted away.
func (s *Store) Events(key, end []byte, from int64) ([]*mvccpb.Event, error) {
	if from < s.compacted {
		return nil, rpctypes.ErrGRPCCompacted
	}
	first := sort.Search(len(s.events), func(i int) bool { return s.events[i].Kv.ModRevision >= from })
	var all []*mvccpb.Event
	for _, e := range s.events[first:] {
		if contains(key, end, e.Kv.Key) {
			all = append(all, e)
		}
	}
	return all, nil
}

func contains(key, end, one []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, one)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(one, key) >= 0
	}
	return bytes.Compare(one, key) >= 0 && bytes.Compare(one, end) < 0
}

func unimplemented(what string) error {
	return status.Errorf(codes.Unimplemented, "simulated etcd: %s", what)
}

// lease keeps keys until it ends.
type lease struct {
	ttl  int64
	ends time.Time
	keys map[string]bool
}

func (s *Store) detach(id int64, key string) {
	if l := s.leases[id]; l != nil {
		delete(l.keys, key)
	}
}
