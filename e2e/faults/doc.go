// Package faults breaks a real mesh in every way that its parts can break, and
// measures what people see meanwhile and how long it takes until grants flow
// again.
//
// Each test inflicts one fault, asks for evictions as people do, heals the
// fault and asks on. A workload with a relative bound must be refused while a
// cluster cannot be read, one with an absolute bound must go on where that is
// provably safe, and a witness must not have seen more pods missing than the
// bound permits. With -report the rows go into docs/failures.md.
//
// TestRandomFaults lets eager callers loose in all clusters while faults are
// drawn from a seed; `make race FOR=30m` runs it for long.
package faults
