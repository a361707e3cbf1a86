package mesh

import (
	"fmt"
	"time"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

// What one peer may make us hold, read or say. Each limit is far beyond what a mesh of the largest clusters that
// Kubernetes and Cilium support needs, and small enough that a peer that means harm, or has gone mad, harms only
// the budgets that it takes part in.
const (
	// maxKeys bounds one range of a snapshot.
	maxKeys = 20_000
	// maxHeld bounds what a standing view may hold of one cluster, in bytes: some 300,000 pods. While a view is
	// listed anew, there are two.
	maxHeld = 128 << 20
	// maxListed bounds how many records are listed for that.
	maxListed = 1_000_000
	// maxExport bounds one value of Cilium's, decompressed. etcd itself takes 1.5 MiB unless told otherwise, and a
	// slice of 1000 endpoints, which is Kubernetes' limit, is a third of it.
	maxExport = 1 << 20
	// maxExports bounds all slices of a namespace together, decompressed.
	maxExports = 16 << 20
	// maxWords bounds what a peer's words may add to a sentence of ours, in bytes.
	maxWords = 200
	// overloadWait is how long a cluster that holds too much is left alone: to list it again takes work.
	overloadWait = 30 * time.Second
)

// overloadError: a cluster's records exceed what is held of one cluster.
type overloadError struct{ cluster string }

func (e *overloadError) Error() string {
	return fmt.Sprintf("its kvstore holds more than %d MiB of records under %s: remove what does not belong there", maxHeld>>20, wire.ClusterPrefix(e.cluster))
}

// perRecord is what a record takes beside its texts: its place in maps, and the headers of its fields.
const perRecord = 256

func weight(k wire.Key, texts ...string) int {
	total := perRecord + len(k.Namespace) + len(k.Budget) + len(k.ID)
	for _, text := range texts {
		total += 16 + len(text)
	}
	return total
}

func weightOfBudget(k wire.Key, b wire.Budget) int {
	return weight(k, b.UID, b.Service, b.MinAvailable, b.MaxUnavailable, b.Undecided) + weight(wire.Key{}, b.View...)
}

func weightOfPod(k wire.Key, p wire.Pod) int {
	return weight(k, p.UID, p.Name, string(p.Unavailable)) + weight(wire.Key{}, p.IPs...) - perRecord
}

func weightOfClaim(k wire.Key, c wire.Claim) int {
	return weight(k, c.ID, c.UID, c.Pod, string(c.State), string(c.Reason)) + weight(wire.Key{}, c.Budgets...)
}

func weightOfTold(k wire.Key, t told) int { return weight(k, t.value) + len(t.waiters)*perRecord }
