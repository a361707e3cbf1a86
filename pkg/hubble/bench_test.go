package hubble

import (
	"context"
	"io"
	"testing"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/flow"
)

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// typical is a refusal as the cached view makes it.
func typical() flow.Decision {
	d := decision("6e1f3c52-7a55-4f0e-9e0e-0d9b8a1c2f47")
	d.User = "system:serviceaccount:kube-system:cluster-autoscaler"
	d.Sentence = "evicting db-7b4fbb8d49-v27qc would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 2/3), by a view at most 2s old"
	d.Object.Name, d.Object.UID, d.Object.IP = "db-7b4fbb8d49-v27qc", "0b9f6f0e-53a8-4b0e-8f0c-6a3c9d1e2b11", "10.1.0.7"
	d.Object.Labels = map[string]string{"app": "db", "pod-template-hash": "7b4fbb8d49", "tier": "data"}
	d.Object.OwnerKind, d.Object.OwnerName = "Deployment", "db"
	d.Budgets = []flow.Budget{{Namespace: "prod", Name: "db", Generation: 1}}
	d.Arithmetic = budget.Decision{Verdict: budget.Deny, Reason: budget.Insufficient, Expected: 9, Desired: 8, Available: 8, Left: 7, Cost: 1}
	return d
}

// BenchmarkPublish is what a decision waits for, while nobody reads and while all of it is exported.
func BenchmarkPublish(b *testing.B) {
	for name, out := range map[string]io.WriteCloser{"ring": nil, "export": discard{io.Discard}} {
		b.Run(name, func(b *testing.B) {
			c := config()
			c.Export, c.Capacity, c.Queue = out, 4095, 1024
			o, err := New(c)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- o.Run(ctx) }()
			d := typical()
			b.ReportAllocs()
			for b.Loop() {
				o.Publish(d)
			}
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkShow is what it takes to show a decision to whoever reads.
func BenchmarkShow(b *testing.B) {
	o, err := New(config())
	if err != nil {
		b.Fatal(err)
	}
	d := typical()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if o.Publish(d); i%chunk == 0 {
			o.show()
		}
	}
}

// BenchmarkExport is what it takes to export a decision.
func BenchmarkExport(b *testing.B) {
	c := config()
	c.Export = discard{io.Discard}
	o, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	w, d := &writer{Observer: o}, typical()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if o.Publish(d); i%chunk == 0 {
			w.round()
		}
	}
}
