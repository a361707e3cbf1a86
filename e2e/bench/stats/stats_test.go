package stats

import (
	"testing"
	"time"
)

func milliseconds(n int) []time.Duration {
	var all []time.Duration
	for i := n; i > 0; i-- {
		all = append(all, time.Duration(i)*time.Millisecond)
	}
	return all
}

func TestPercentile(t *testing.T) {
	for _, tt := range []struct {
		samples int
		q       float64
		want    int
	}{
		{0, 50, 0},
		{1, 0, 1}, {1, 50, 1}, {1, 99, 1}, {1, 100, 1},
		{2, 50, 1}, {2, 51, 2},
		{3, 50, 2},
		{4, 50, 2}, {4, 75, 3}, {4, 76, 4},
		{60, 99, 60}, {60, 98, 59},
		{100, 0, 1}, {100, 50, 50}, {100, 90, 90}, {100, 99, 99}, {100, 100, 100},
		{1000, 99.9, 999},
	} {
		got := Of(milliseconds(tt.samples)).Percentile(tt.q)
		if got != time.Duration(tt.want)*time.Millisecond {
			t.Errorf("p%g of 1..%d ms: got %s, want %d ms", tt.q, tt.samples, got, tt.want)
		}
	}
}

func TestMean(t *testing.T) {
	if got := Of(milliseconds(4)).Mean(); got != 2500*time.Microsecond {
		t.Errorf("got %s", got)
	}
	if got := Of(nil).Mean(); got != 0 {
		t.Errorf("of nothing: %s", got)
	}
}
