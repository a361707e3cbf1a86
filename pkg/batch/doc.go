// Package batch turns calls that arrive together into one: the group commit of
// ledgers and the shared rounds of reads.
//
// A call is served by a batch that began after the call was made, never by one
// that was under way. That is what sets it apart from singleflight, and what
// the claim protocol needs: a claimant may use a snapshot only if it was read
// after its own claim was written (rule R3).
package batch
