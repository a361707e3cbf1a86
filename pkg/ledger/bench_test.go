package ledger_test

import (
	"fmt"
	"testing"

	"github.com/meshpdb/meshpdb/pkg/ledger"
)

// BenchmarkSwap measures one durable write, beside as many claims as stand.
func BenchmarkSwap(b *testing.B) {
	for _, standing := range []int{0, 10, 100} {
		b.Run(fmt.Sprint(standing), func(b *testing.B) {
			namespace := fresh("bench")
			l := ledger.New(server, "c1")
			for i := range standing {
				if _, _, err := l.Append(b.Context(), of(namespace, fmt.Sprint("standing-", i)), 0); err != nil {
					b.Fatal(err)
				}
			}
			for i := range b.N {
				c := of(namespace, fmt.Sprint(i))
				if _, _, err := l.Append(b.Context(), c, 0); err != nil {
					b.Fatal(err)
				}
				if _, err := l.Withdraw(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(2*b.N), "µs/write")
		})
	}
}
