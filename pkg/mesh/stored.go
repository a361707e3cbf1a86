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
	response, err := i.client.Get(ctx, wire.ClusterPrefix(o.cluster)+"claims/", clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list claims of %s: %w", name, unreachable(err))
	}
	var claims []claim.Claim
	for _, kv := range response.Kvs {
		k, err := wire.ParseKey(o.cluster, string(kv.Key))
		if err != nil || k.Kind != wire.KindClaim {
			continue
		}
		var c wire.Claim
		if err := wire.Unmarshal(kv.Value, &c); err != nil || c.ID != k.ID {
			// Unreadable, yet in our own prefix: known by its key, so that it can be removed.
			c = wire.Claim{ID: k.ID}
		}
		claims = append(claims, toClaim(o.cluster, k.Namespace, c))
	}
	return claims, nil
}
