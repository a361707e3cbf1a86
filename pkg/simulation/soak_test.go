package simulation

import (
	"flag"
	"reflect"
	"testing"
	"time"
)

var (
	seedsFlag = flag.Int("seeds", 0, "how many seeds the soak runs")
	fromFlag  = flag.Uint64("from", 1, "the first seed of the soak")
)

// add sums up.
func (s *Stats) add(o Stats) {
	sum, other := reflect.ValueOf(s).Elem(), reflect.ValueOf(o)
	for i := range sum.NumField() {
		sum.Field(i).SetInt(sum.Field(i).Int() + other.Field(i).Int())
	}
}

func TestSoak(t *testing.T) {
	if *seedsFlag == 0 {
		t.Skip("runs -seeds")
	}
	var total Stats
	start := time.Now()
	failures := 0
	for n := range uint64(*seedsFlag) {
		seed := *fromFlag + n
		r := Run(t, Draw(seed), Options{})
		total.add(r.Stats)
		if r.Err != nil {
			failures++
			t.Errorf("seed %d: %v", seed, r.Err)
			if failures > 10 {
				break
			}
		}
	}
	t.Logf("%s: %+v", time.Since(start), total)
}
