// Command bench measures what meshpdb costs and writes docs/performance.md and
// the charts in it. Every figure there is of one run on one machine, and so is
// what it is compared with.
//
//	go run ./e2e/bench                       # everything, some 12 minutes on two cores
//	go run ./e2e/bench --quick               # a look, into bin/bench
//	go run ./e2e/bench --only clusters,scale # some sections, into bin/bench
//
// Package live measures on real clusters and package recorded on recorded
// state of meshes that no machine could run; package paper writes. This package
// says what is measured and what the figures mean.
package main
