package claim

import "slices"

// Compare is rule R11: what an instance shows against what the ledger holds.
// stored must have been read BEFORE durable, else a claim made in between
// would look orphaned. It returns the claim IDs to delete from the instance
// (never "the pod's claim": it may have been claimed anew, X17) and the claims
// to write.
func Compare(stored, durable []Claim) (remove []string, write []Claim) {
	for _, s := range stored {
		if !slices.ContainsFunc(durable, func(d Claim) bool { return d.ID == s.ID }) {
			remove = append(remove, s.ID)
		}
	}
	for _, d := range durable {
		if !slices.ContainsFunc(stored, func(s Claim) bool { return s.ID == d.ID && s.State == d.State }) {
			write = append(write, d)
		}
	}
	return remove, write
}
