// Package simulation runs whole meshes in one process and in no time: the real
// code of mesh, ledger, decide and publish, and of all they rest on, in several
// clusters of several controller replicas each, on simulated kvstores, API
// servers, networks and clocks.
//
// A [Scenario] is drawn from a seed. [Run] lets it run and checks after every
// step what the protocol promises (docs/protocol.md, "What holds"), by a
// witness that sees everything.
//
//	Scenario   what a seed draws: sizes, budgets, how often what goes wrong
//	scheduler  decides which answer comes next, and when: the only one who does
//	process    one controller replica, made of the real packages
//	cluster    pods, budgets, API server and kvstore instances
//	witness    computes what must hold, from the truth and from what was read
//
// Everything happens in a bubble of testing/synctest: its clock stands still
// while any goroutine runs. Every call to the outside parks at the scheduler.
// When all goroutines wait, the scheduler sorts what has arrived by its
// content, draws a fate and a delay for each, and lets the next one happen. So
// a seed repeats its run exactly: docs/simulation.md tells what that rests on.
package simulation
