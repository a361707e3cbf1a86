// Package reader reads decisions back out of Hubble: from the observer API that
// package hubble and Relay serve, and from flow logs. It is light, for tools
// on people's machines: of Cilium it imports the API alone.
package reader
