package wire

import (
	"fmt"
	"strings"
)

// Root is the prefix of all that meshpdb writes.
//
// WARNING - STABLE API.
const Root = "cilium/state/meshpdb/v1/"

// Kind is what a key names. The zero value is invalid.
type Kind uint8

// The kinds of records, in the order in which doc.go lists them.
const (
	KindIncarnation Kind = iota + 1
	KindMarker
	KindBudget
	KindPod
	KindClaim
	KindWaiters
)

// Key names a record of a cluster. It is the only place that spells keys.
type Key struct {
	Kind      Kind
	Cluster   string
	Namespace string
	// Budget is the name of the budget, for KindBudget, KindPod and KindWaiters.
	Budget string
	// ID is the pod's UID for KindPod, the claim's ID for KindClaim, the
	// controller replica for KindWaiters.
	ID string
}

// ClusterPrefix is the prefix of all records of a cluster.
func ClusterPrefix(cluster string) string { return Root + cluster + "/" }

// PodsPrefix is the prefix of the pods of one budget.
func PodsPrefix(cluster, namespace, budget string) string {
	return ClusterPrefix(cluster) + "pods/" + namespace + "/" + budget + "/"
}

// ClaimsPrefix is the prefix of the claims on pods of a namespace.
func ClaimsPrefix(cluster, namespace string) string {
	return ClusterPrefix(cluster) + "claims/" + namespace + "/"
}

// String returns the key as it stands in the kvstore.
func (k Key) String() string {
	switch k.Kind {
	case KindIncarnation:
		return ClusterPrefix(k.Cluster) + "incarnation"
	case KindMarker:
		return ClusterPrefix(k.Cluster) + "marker"
	case KindBudget:
		return ClusterPrefix(k.Cluster) + "budgets/" + k.Namespace + "/" + k.Budget
	case KindPod:
		return PodsPrefix(k.Cluster, k.Namespace, k.Budget) + k.ID
	case KindClaim:
		return ClaimsPrefix(k.Cluster, k.Namespace) + k.ID
	case KindWaiters:
		return ClusterPrefix(k.Cluster) + "waiters/" + k.Namespace + "/" + k.Budget + "/" + k.ID
	default:
		return ""
	}
}

// ParseKey reads a key of the cluster. Keys of kinds that a later version may
// add are reported as an error and must be ignored by the caller.
func ParseKey(cluster, key string) (Key, error) {
	rest, ok := strings.CutPrefix(key, ClusterPrefix(cluster))
	if !ok {
		return Key{}, fmt.Errorf("parse key %q: not under %q", key, ClusterPrefix(cluster))
	}
	parts := strings.Split(rest, "/")
	k := Key{Cluster: cluster}
	switch {
	case rest == "incarnation":
		k.Kind = KindIncarnation
	case rest == "marker":
		k.Kind = KindMarker
	case parts[0] == "budgets" && len(parts) == 3:
		k.Kind, k.Namespace, k.Budget = KindBudget, parts[1], parts[2]
	case parts[0] == "pods" && len(parts) == 4:
		k.Kind, k.Namespace, k.Budget, k.ID = KindPod, parts[1], parts[2], parts[3]
	case parts[0] == "claims" && len(parts) == 3:
		k.Kind, k.Namespace, k.ID = KindClaim, parts[1], parts[2]
	case parts[0] == "waiters" && len(parts) == 4:
		k.Kind, k.Namespace, k.Budget, k.ID = KindWaiters, parts[1], parts[2], parts[3]
	default:
		return Key{}, fmt.Errorf("parse key %q: unknown kind", key)
	}
	if k.String() != key || strings.Contains(rest, "//") || strings.HasSuffix(rest, "/") {
		return Key{}, fmt.Errorf("parse key %q: empty element", key)
	}
	return k, nil
}
