package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

// pages serves sorted keys as etcd does. before runs ahead of each page.
type pages struct {
	clientv3.KV
	keys   []string
	header pb.ResponseHeader
	before func(page int, p *pages) error
	asked  []int64
}

func (p *pages) Get(_ context.Context, from string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet(from, options...)
	p.asked = append(p.asked, op.Rev())
	if p.before != nil {
		if err := p.before(len(p.asked), p); err != nil {
			return nil, err
		}
	}
	header := p.header
	response := &clientv3.GetResponse{Header: &header}
	for _, key := range p.keys {
		if key < from || key >= string(op.RangeBytes()) {
			continue
		}
		if len(response.Kvs) == int(op.Limit()) {
			response.More = true
			break
		}
		uid := key[strings.LastIndex(key, "/")+1:]
		response.Kvs = append(response.Kvs, &mvccpb.KeyValue{Key: []byte(key), Value: fmt.Appendf(nil, `{"uid":%q,"name":"p"}`, uid)})
	}
	return response, nil
}

func TestListPages(t *testing.T) {
	var keys []string
	for i := range 2*pageKeys + 7 {
		keys = append(keys, wire.PodsPrefix("c2", "n", "b")+fmt.Sprintf("%05d", i))
	}
	keys = append(keys, "cilium/state/meshpdb/v1/c3/pods/n/b/other")
	slices.Sort(keys)
	for name, c := range map[string]struct {
		before func(page int, p *pages) error
		relist bool
		failed bool
	}{
		"at one revision": {},
		"compacted": {before: func(page int, _ *pages) error {
			if page == 3 {
				return rpctypes.ErrCompacted
			}
			return nil
		}, relist: true},
		"a store that is behind": {before: func(page int, _ *pages) error {
			if page == 2 {
				return rpctypes.ErrFutureRev
			}
			return nil
		}, relist: true},
		"another store":    {before: func(page int, p *pages) error { p.header.MemberId = uint64(page); return nil }, relist: true},
		"an emptied store": {before: func(page int, p *pages) error { p.header.Revision = int64(10 - page); return nil }, relist: true},
		"unreachable":      {before: func(int, *pages) error { return errors.New("no route") }, failed: true},
		"writes go on":     {before: func(page int, p *pages) error { p.header.Revision += int64(page); return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			store := &pages{keys: keys, header: pb.ResponseHeader{MemberId: 1, Revision: 7}, before: c.before}
			client := clientv3.NewCtxClient(t.Context())
			client.KV = store
			all, header, err := newMember("c2", client, nil, nil).list(t.Context())
			if (err != nil) != (c.relist || c.failed) || errors.Is(err, errRelist) != c.relist {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				return
			}
			if n := len(all.pods["n/b"]); n != 2*pageKeys+7 || len(store.asked) != 3 {
				t.Errorf("%d pods in %d pages", n, len(store.asked))
			}
			// The first page says at which revision, and the watch goes on from there.
			if store.asked[0] != 0 || store.asked[1] != header.Revision || store.asked[2] != header.Revision {
				t.Errorf("asked at %v, told %d", store.asked, header.Revision)
			}
		})
	}
}

func TestSubjects(t *testing.T) {
	m := newMember("c2", nil, nil, nil)
	pod := wire.PodsPrefix("c2", "n", "b") + "u"
	budget := wire.Key{Kind: wire.KindBudget, Cluster: "c2", Namespace: "n", Budget: "b"}.String()
	claim := wire.ClaimsPrefix("c2", "n") + "x"
	marker := wire.Key{Kind: wire.KindMarker, Cluster: "c2"}.String()
	for _, c := range []struct {
		keys    []string
		touched map[string]bool
		want    string
	}{
		{[]string{pod, budget}, map[string]bool{"n": true}, "[n/b]"},
		{[]string{pod, claim}, map[string]bool{"n": true}, "[n n/b]"},
		{[]string{marker}, map[string]bool{"": true}, "[]"},
		{[]string{pod}, map[string]bool{}, "[]"},
		{[]string{"cilium/state/meshpdb/v1/c2/novel/x"}, map[string]bool{"": true}, "[]"},
	} {
		var event clientv3.WatchResponse
		for _, key := range c.keys {
			event.Events = append(event.Events, &clientv3.Event{Kv: &mvccpb.KeyValue{Key: []byte(key)}})
		}
		got := m.subjects(event, c.touched)
		slices.Sort(got)
		// The instance itself is about everything, which has no name.
		if fmt.Sprint(got) != c.want && !(c.keys[0] == marker && len(got) == 1 && got[0] == "") {
			t.Errorf("%v: got %q, want %s", c.keys, got, c.want)
		}
	}
}
