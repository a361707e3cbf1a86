package mesh

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// StoredClaims returns the claims in one instance, for reconciling (R11). They
// are few, where Stored reads every pod.
func (o *Own) StoredClaims(ctx context.Context, name string) ([]claim.Claim, error) {
	i, err := o.instance(name)
	if err != nil {
		return nil, err
	}
	values, err := i.list(ctx, wire.ClusterPrefix(o.cluster)+"claims/")
	if err != nil {
		return nil, fmt.Errorf("list claims of %s: %w", name, unreachable(err))
	}
	return o.claims(values), nil
}

// Stored returns the keys and values of our prefix in one instance, and its
// claims, for a restore (R1 d).
func (o *Own) Stored(ctx context.Context, name string) (map[string]string, []claim.Claim, error) {
	i, err := o.instance(name)
	if err != nil {
		return nil, nil, err
	}
	values, err := i.list(ctx, wire.ClusterPrefix(o.cluster))
	if err != nil {
		return nil, nil, fmt.Errorf("list %s: %w", name, unreachable(err))
	}
	return values, o.claims(values), nil
}

// list reads what is under a prefix page by page: all pods of a large cluster
// would not fit into one message. The pages need not be of one revision, for
// nobody else writes there: an older publisher is fenced by the incarnation,
// and claims that come or go meanwhile are found in the ledger, which is read later.
func (i *instance) list(ctx context.Context, prefix string) (map[string]string, error) {
	values := map[string]string{}
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		page, err := i.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageKeys))
		if err != nil {
			return nil, err
		}
		for _, kv := range page.Kvs {
			values[string(kv.Key)] = string(kv.Value)
		}
		if !page.More || len(page.Kvs) == 0 {
			return values, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
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
