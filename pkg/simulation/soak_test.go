package simulation

import (
	"flag"
	"reflect"
	"testing"
	"time"
)

var (
	seedsFlag = flag.Int("seeds", 0, "how many seeds the soak runs")
	forFlag   = flag.Duration("for", 0, "how long the soak runs")
	fromFlag  = flag.Uint64("from", 1_000_000, "the first seed of the soak")
)

// add sums up.
func (s *Stats) add(o Stats) {
	sum, other := reflect.ValueOf(s).Elem(), reflect.ValueOf(o)
	for i := range sum.NumField() {
		sum.Field(i).SetInt(sum.Field(i).Int() + other.Field(i).Int())
	}
}

// TestSoak runs as many seeds as it is told to.
func TestSoak(t *testing.T) {
	if *seedsFlag == 0 && *forFlag == 0 {
		t.Skip("runs -seeds, or -for some time")
	}
	var total Stats
	start, told := time.Now(), time.Now()
	failures := 0
	for seed := *fromFlag; failures < 5; seed++ {
		if n := int(seed - *fromFlag); *seedsFlag > 0 && n >= *seedsFlag || *forFlag > 0 && time.Since(start) >= *forFlag {
			break
		}
		r := Run(t, Draw(seed), Options{})
		total.add(r.Stats)
		if r.Err != nil {
			failures++
			reportFailure(t, seed, r.Err)
		}
		if time.Since(told) > time.Minute {
			told = time.Now()
			t.Logf("%s: %+v", time.Since(start).Round(time.Second), total)
		}
	}
	t.Logf("%s: %+v", time.Since(start).Round(time.Second), total)
}

// reportFailure shrinks a seed that failed.
func reportFailure(t *testing.T, seed uint64, err error) {
	t.Helper()
	small := Shrink(Edit{Seed: seed}, func(s Scenario) bool { return Run(t, s, Options{}).Err != nil })
	t.Errorf("seed %d: %v\nreplay it: %s\nsmaller:   %s", seed, err, Edit{Seed: seed}.Command(), small.Command())
}
