package scenario

import (
	"slices"
	"testing"
)

func TestShares(t *testing.T) {
	for _, tt := range []struct {
		total, n int
		want     []int
	}{
		{10, 3, []int{4, 3, 3}},
		{9, 3, []int{3, 3, 3}},
		{11, 3, []int{4, 4, 3}},
		{1, 3, []int{1, 0, 0}},
		{0, 2, []int{0, 0}},
	} {
		if got := shares(tt.total, tt.n); !slices.Equal(got, tt.want) {
			t.Errorf("%d among %d: got %v, want %v", tt.total, tt.n, got, tt.want)
		}
	}
}
