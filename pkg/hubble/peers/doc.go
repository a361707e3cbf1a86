// Package peers tells Hubble Relay where meshpdb's observers are, beside
// Cilium's agents: a Hubble peer service that passes on what the agents' own
// peer service announces and adds the observers.
//
// A subscriber is told the difference between what it was told before and what
// is known now, so a slow one misses nothing and nothing piles up.
//
// Relay is healthy only while it has a peer service, so whoever gives it this
// one puts it on the path of all of Hubble: run two, and a short retry timeout.
// What was announced stays announced while the agents' service is away.
package peers
