package scale

import (
	"os"
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	o := Options{Progress: os.Stderr, Profiles: os.Getenv("PROFILES")}
	if os.Getenv("BIG") != "" {
		o.Pods, o.Budgets, o.Binary = 100_000, 10_000, os.Getenv("BINARY")
		o.Timeout = 8 * time.Minute
	}
	r, err := Measure(t.Context(), o)
	t.Logf("%+v", r)
	if err != nil {
		t.Fatal(err)
	}
}
