// Package hubble shows decisions to Hubble's own tools: a Hubble observer
// (API of hubble observe, Relay and the UI) and Hubble's flow log as the audit
// trail.
//
// Publish never waits: it puts a decision into a bounded queue, or counts it as
// lost, which Hubble's readers are told as LostEvents. One goroutine, Run,
// takes from the queue, makes flows, exports them and writes Cilium's ring,
// whose only writer it is.
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
