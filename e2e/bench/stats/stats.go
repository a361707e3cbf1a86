// Package stats sums up measured durations.
package stats

import (
	"math"
	"slices"
	"time"
)

// Distribution is a number of durations, ascending. The zero value is empty.
type Distribution []time.Duration

// Of takes samples in any order.
func Of(samples []time.Duration) Distribution { return slices.Sorted(slices.Values(samples)) }

// Percentile returns the smallest sample that at least q percent of all do not
// exceed (the nearest rank, which is always a value that was measured); 0 if
// there is none.
func (d Distribution) Percentile(q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	// What floating point adds to a whole number must not become a rank.
	rank := int(math.Ceil(q*float64(len(d))/100 - 1e-9))
	return d[min(max(rank, 1), len(d))-1]
}

// Mean returns the arithmetic mean; 0 if there is no sample.
func (d Distribution) Mean() time.Duration {
	if len(d) == 0 {
		return 0
	}
	var sum time.Duration
	for _, s := range d {
		sum += s
	}
	return sum / time.Duration(len(d))
}
