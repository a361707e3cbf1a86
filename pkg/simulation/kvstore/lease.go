package kvstore

import (
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// LeaseGrant makes a lease; an ID of 0 lets the store choose one.
func (s *Store) LeaseGrant(r *pb.LeaseGrantRequest, now time.Time) (*pb.LeaseGrantResponse, error) {
	id := r.ID
	if id == 0 {
		for id = int64(len(s.leases) + 1); s.leases[id] != nil; id++ {
		}
		// Never again in this store's life.
		id = id<<32 | s.revision
	}
	if s.leases[id] != nil {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	s.leases[id] = &lease{ttl: r.TTL, ends: now.Add(time.Duration(r.TTL) * time.Second), keys: map[string]bool{}}
	return &pb.LeaseGrantResponse{Header: s.Header(), ID: id, TTL: r.TTL}, nil
}

// LeaseKeepAlive prolongs a lease. A TTL of 0 says that there is none.
func (s *Store) LeaseKeepAlive(r *pb.LeaseKeepAliveRequest, now time.Time) *pb.LeaseKeepAliveResponse {
	response := &pb.LeaseKeepAliveResponse{Header: s.Header(), ID: r.ID}
	if l := s.leases[r.ID]; l != nil {
		l.ends = now.Add(time.Duration(l.ttl) * time.Second)
		response.TTL = l.ttl
	}
	return response
}

// LeaseRevoke ends a lease, and deletes its keys in one revision.
func (s *Store) LeaseRevoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	l := s.leases[r.ID]
	if l == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	delete(s.leases, r.ID)
	c := s.begin()
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		c.deleteRange(&pb.DeleteRangeRequest{Key: []byte(key)})
	}
	c.end()
	return &pb.LeaseRevokeResponse{Header: s.Header()}, nil
}

// Expire ends the leases whose time has come, and tells whether there were any.
func (s *Store) Expire(now time.Time) bool {
	expired := false
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		if !s.leases[id].ends.After(now) {
			_, err := s.LeaseRevoke(&pb.LeaseRevokeRequest{ID: id})
			expired = err == nil
		}
	}
	return expired
}

// NextExpiry returns when the first lease ends; zero if there is none.
func (s *Store) NextExpiry() time.Time {
	var next time.Time
	for _, l := range s.leases {
		if next.IsZero() || l.ends.Before(next) {
			next = l.ends
		}
	}
	return next
}
