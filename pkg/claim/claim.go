package claim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// State of a claim. The zero value is invalid.
type State uint8

const (
	// Pending: written, not decided.
	Pending State = iota + 1
	// Granted: the caller was, or is about to be, told "allowed".
	Granted
)

// String returns the state as it stands in records.
func (s State) String() string {
	switch s {
	case Pending:
		return "Pending"
	case Granted:
		return "Granted"
	default:
		return "Invalid"
	}
}

// Claim announces the disruption of one pod to all clusters. There is one per
// pod, however many budgets cover it: one claim has one priority, which keeps
// two budgets from waiting for each other (L13 to L15).
type Claim struct {
	// ID is unique and never used again.
	ID string
	// UID, Namespace and Pod name the pod. Only the UID identifies it.
	UID, Namespace, Pod string
	// Budgets that covered the pod when it was claimed, for people; readers match by UID.
	Budgets []string
	// Views, one for each of Budgets, are the ViewIDs of the clusters that the claimant
	// reads. Who reads others does not see a claim that came before its own (R3, V15).
	Views []string
	// Cluster that holds the pod and the claim.
	Cluster string
	State   State
	// Ticket orders claims: 1 + the largest ticket the claimant had ever seen, when
	// it asked for this pod for the first time. 0: yet to be drawn.
	Ticket uint64
	// Reason is by which path the pod is to be disrupted, for people.
	Reason string
	// Seq counts how often the granted claim was asked for again (R8).
	Seq uint64
}

// ViewID names a set of clusters in 16 characters.
func ViewID(clusters []string) string {
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(slices.Sorted(slices.Values(clusters))), "\n")))
	return hex.EncodeToString(sum[:8])
}

// reads reports whether the claimant decides budget b by the same clusters.
func (c Claim) reads(b Covering) bool {
	i := slices.Index(c.Budgets, b.Name)
	return i >= 0 && i < len(c.Views) && c.Views[i] == ViewID(b.Clusters)
}

// Before reports whether c has the higher priority. The order is total and
// never changes during a claim's life, which is all that freedom from
// deadlock needs (protocol section 4).
func (c Claim) Before(other Claim) bool {
	return cmp.Or(
		cmp.Compare(c.Ticket, other.Ticket),
		cmp.Compare(c.Cluster, other.Cluster),
		cmp.Compare(c.ID, other.ID),
	) < 0
}
