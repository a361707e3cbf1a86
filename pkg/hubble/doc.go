// Package hubble shows decisions to Hubble's own tools: a Hubble observer
// (API of hubble observe, Relay and the UI) and Hubble's flow log as the audit
// trail.
//
// Publish never waits, and is all that a decision pays: it copies the decision
// into a bounded memory of the last ones. Flows are made when somebody reads: of
// what is remembered when a query comes, and of what comes while a stream follows.
// One goroutine, Run, does the latter and exports, in batches. What may wait for
// it is bounded; what comes on top is lost and counted, which Hubble's readers are
// told as LostEvents. Where nobody follows and nothing is exported, nothing
// waits and nothing is lost: the oldest decisions go, as in Hubble's own ring.
//
// The observer is Cilium's LocalObserverServer behind a wrapper that mends what
// matters at the rate of decisions and not at that of packets (pkg/hubble/container
// and pkg/hubble/observer of Cilium 1.20):
//
//   - a ring never shows the slot written last, so the newest decision would stay
//     invisible until the next one: an empty event follows each flow, and no query sees it;
//   - a reader of a ring with fewer than two events starts before its beginning
//     and sleeps until the ring is full: two empty events are there from the start.
package hubble
