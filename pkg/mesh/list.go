package mesh

import (
	"context"
	"errors"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

const (
	// pageKeys is how many keys one answer of a list may hold: a cluster with many
	// pods would not fit into one message, nor twice into memory.
	pageKeys = 1000
	// pageShrink is by what a page is divided that does not fit into one message.
	pageShrink = 10
)

// list reads all records of the cluster at one revision, page by page. An
// error that errRelist is in means that the pages would not fit together.
func (m *Member) list(ctx context.Context) (*records, *pb.ResponseHeader, error) {
	all := newRecords(m.cluster)
	from, end := wire.ClusterPrefix(m.cluster), clientv3.GetPrefixRangeEnd(wire.ClusterPrefix(m.cluster))
	var header *pb.ResponseHeader
	size := int64(pageKeys)
	for listed := 0; ; {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(size)}
		if header != nil {
			options = append(options, clientv3.WithRev(header.Revision))
		}
		page, err := m.page(ctx, from, options)
		switch {
		case status.Code(err) == codes.ResourceExhausted && size > 1:
			// One huge value must not hide the records beside it.
			size /= pageShrink
			continue
		case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
			// Compacted meanwhile, or another store that has not come as far.
			return nil, nil, errors.Join(errRelist, err)
		case err != nil:
			return nil, nil, err
		case header == nil:
			header = page.Header
		case page.Header.MemberId != header.MemberId || page.Header.Revision < header.Revision:
			return nil, nil, errRelist
		}
		for _, kv := range page.Kvs {
			all.apply(string(kv.Key), kv.Value)
			if all.held > maxHeld {
				return nil, nil, &overloadError{m.cluster}
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return all, header, nil
		}
		if listed += len(page.Kvs); listed >= maxListed {
			return nil, nil, &overloadError{m.cluster}
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (m *Member) page(ctx context.Context, from string, options []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return m.client.Get(ctx, from, options...)
}

// subjects tells what the events are about that touched a namespace: one
// budget if it is its record or a pod of it, so that a large namespace is not
// looked at as a whole for each of its pods.
func (m *Member) subjects(event clientv3.WatchResponse, touched map[string]bool) []string {
	subjects := map[string]bool{}
	for _, e := range event.Events {
		k, err := wire.ParseKey(m.cluster, string(e.Kv.Key))
		switch {
		case err != nil || !touched[k.Namespace]:
		case k.Budget != "":
			subjects[join(k.Namespace, k.Budget)] = true
		default:
			subjects[k.Namespace] = true
		}
	}
	return slices.Collect(maps.Keys(subjects))
}
