package kvstore

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Txn performs a transaction. Nothing is done if it is refused.
func (s *Store) Txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := s.checkTxn(r); err != nil {
		return nil, err
	}
	response := &pb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		response.Succeeded = response.Succeeded && s.holds(c)
	}
	ops := r.Success
	if !response.Succeeded {
		ops = r.Failure
	}
	// A lease or revision that is not there refuses the whole before it begins.
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil {
			if err := s.checkPut(put); err != nil {
				return nil, err
			}
		}
		if read := op.GetRequestRange(); read != nil {
			if _, err := s.rangeAt(&pb.RangeRequest{Key: read.Key, Revision: read.Revision}, s.revision); err != nil {
				return nil, err
			}
		}
	}
	c := s.begin()
	for _, op := range ops {
		answer, err := c.perform(op)
		if err != nil {
			return nil, err
		}
		response.Responses = append(response.Responses, answer)
	}
	c.end()
	response.Header = s.Header()
	return response, nil
}

func (c *change) perform(op *pb.RequestOp) (*pb.ResponseOp, error) {
	switch {
	case op.GetRequestRange() != nil:
		r, err := c.rangeAt(op.GetRequestRange(), c.reads())
		if err != nil {
			return nil, err
		}
		r.Header = nested(r.Header)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}, nil
	case op.GetRequestPut() != nil:
		r, err := c.put(op.GetRequestPut())
		if err != nil {
			return nil, err
		}
		r.Header = nested(r.Header)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: r}}, nil
	default:
		r := c.deleteRange(op.GetRequestDeleteRange())
		r.Header = nested(r.Header)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r}}, nil
	}
}

// nested is the header inside a transaction's answer: its revision only.
func nested(h *pb.ResponseHeader) *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: h.Revision}
}

// checkTxn refuses what etcd refuses unseen, in its order: too many operations,
// empty keys, a key that is written twice.
func (s *Store) checkTxn(r *pb.TxnRequest) error {
	if max(len(r.Compare), len(r.Success), len(r.Failure)) > MaxTxnOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, op := range slices.Concat(r.Success, r.Failure) {
		if err := s.checkOp(op); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if err := checkOverlap(ops); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) checkOp(op *pb.RequestOp) error {
	var key []byte
	switch {
	case op.GetRequestRange() != nil:
		return s.checkRange(op.GetRequestRange())
	case op.GetRequestPut() != nil:
		key = op.GetRequestPut().Key
	case op.GetRequestDeleteRange() != nil:
		key = op.GetRequestDeleteRange().Key
	default:
		return unimplemented("a transaction in a transaction")
	}
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkOverlap refuses operations that write a key twice.
func checkOverlap(ops []*pb.RequestOp) error {
	puts := map[string]bool{}
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil {
			if puts[string(put.Key)] {
				return rpctypes.ErrGRPCDuplicateKey
			}
			puts[string(put.Key)] = true
		}
	}
	for _, op := range ops {
		r := op.GetRequestDeleteRange()
		// etcd overlooks an open end here (server/etcdserver/api/v3rpc, checkIntervals).
		if r == nil || bytes.Equal(r.RangeEnd, []byte{0}) {
			continue
		}
		for key := range puts {
			if contains(r.Key, r.RangeEnd, []byte(key)) {
				return rpctypes.ErrGRPCDuplicateKey
			}
		}
	}
	return nil
}

// holds evaluates one comparison, over a range for every key in it.
func (s *Store) holds(c *pb.Compare) bool {
	if len(c.RangeEnd) == 0 {
		return compare(c, s.at(string(c.Key), s.revision))
	}
	standing := false
	for _, key := range s.within(c.Key, c.RangeEnd) {
		kv := s.at(key, s.revision)
		if kv == nil {
			continue
		}
		standing = true
		if !compare(c, kv) {
			return false
		}
	}
	return standing || compare(c, nil)
}

// compare compares a key, nil if it does not stand. Its value then equals
// nothing; its numbers are 0.
func compare(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	if kv == nil {
		if c.Target == pb.Compare_VALUE {
			return false
		}
		kv = &mvccpb.KeyValue{}
	}
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	default:
		return order < 0
	}
}
