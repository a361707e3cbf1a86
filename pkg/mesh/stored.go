package mesh

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// StoredClaims returns the claims in one instance, for comparison with the
// ledger (R11). They are few, where Stored reads every pod.
func (o *Own) StoredClaims(ctx context.Context, name string) ([]claim.Claim, error) {
	var claims []claim.Claim
	err := o.pages(ctx, name, wire.ClusterPrefix(o.cluster)+"claims/", func(page map[string]string) {
		claims = append(claims, o.claims(page)...)
	})
	return claims, err
}

// Stored visits the keys and values of our prefix in one instance, page by
// page, for a restore (R1 d): all of them at once would take as much memory as
// the pods of the cluster do.
func (o *Own) Stored(ctx context.Context, name string, visit func(page map[string]string)) error {
	return o.pages(ctx, name, wire.ClusterPrefix(o.cluster), visit)
}

// pages reads what is under a prefix page by page: all pods of a large cluster
// would not fit into one message. The pages need not be of one revision, for
// nobody else writes there: an older publisher is fenced by the incarnation,
// and claims that come or go meanwhile are found in the ledger, which is read later.
func (o *Own) pages(ctx context.Context, name, prefix string, visit func(page map[string]string)) error {
	i, err := o.instance(name)
	if err != nil {
		return err
	}
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		response, err := i.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageKeys))
		if err != nil {
			return fmt.Errorf("list %s: %w", name, unreachable(err))
		}
		page := make(map[string]string, len(response.Kvs))
		for _, kv := range response.Kvs {
			page[string(kv.Key)] = string(kv.Value)
		}
		visit(page)
		if !response.More || len(response.Kvs) == 0 {
			return nil
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

// claims decodes the claims among stored values.
func (o *Own) claims(values map[string]string) []claim.Claim {
	var claims []claim.Claim
	for key, value := range values {
		k, err := wire.ParseKey(o.cluster, key)
		if err != nil || k.Kind != wire.KindClaim {
			continue
		}
		var c wire.Claim
		if err := wire.Unmarshal([]byte(value), &c); err != nil || c.ID != k.ID {
			// Unreadable, yet in our own prefix: known by its key, so that it can be removed.
			c = wire.Claim{ID: k.ID}
		}
		claims = append(claims, toClaim(o.cluster, k.Namespace, c))
	}
	return claims
}
