package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// result is what became of one maintenance: the witness's numbers and the
// answers that the drains got.
type result struct {
	name             string
	expected         int
	allowed, worst   int // missing pods, in all clusters together
	granted, refused int
	medianGrant      time.Duration
	took             time.Duration
	failures         []error // answers other than allowed and 429
	drainErr         error
}

// conclusion says the result in a sentence.
func (r result) conclusion() string {
	return fmt.Sprintf("The worst moment: %d of %s unavailable, %d allowed.", r.worst, count(r.expected, "pod"), r.allowed)
}

// summary sets both results beside each other. native is nil if that phase was skipped.
func summary(native *result, mesh result) []string {
	results := []result{mesh}
	if native != nil {
		results = []result{*native, mesh}
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row := func(name string, value func(result) any) {
		fmt.Fprint(t, name)
		for _, r := range results {
			fmt.Fprintf(t, "\t%v", value(r))
		}
		fmt.Fprintln(t)
	}
	row("", func(r result) any { return r.name })
	row("pods that may be unavailable", func(r result) any { return r.allowed })
	row("pods unavailable at the worst moment", func(r result) any { return r.worst })
	row("evictions allowed", func(r result) any { return r.granted })
	row("evictions refused", func(r result) any { return r.refused })
	row("median time to allow one", func(r result) any { return r.medianGrant.Round(time.Millisecond) })
	row("time of all drains", func(r result) any { return r.took.Round(time.Second) })
	row("drains", func(r result) any { return r.drains() })
	_ = t.Flush() // a strings.Builder takes everything
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if native != nil && native.worst <= native.allowed {
		lines = append(lines, "", "The native budgets held by luck this time: the clusters' evictions did not overlap.")
	}
	return lines
}

func (r result) drains() string {
	if r.drainErr != nil {
		return "failed"
	}
	return "completed"
}

// verdict is nil when meshpdb kept the bound and let the maintenance through.
func verdict(mesh result) error {
	var broken []error
	if mesh.worst > mesh.allowed {
		broken = append(broken, fmt.Errorf("keep bound: %s missing, %d allowed", count(mesh.worst, "pod"), mesh.allowed))
	}
	if mesh.drainErr != nil {
		broken = append(broken, fmt.Errorf("complete drains: %w", mesh.drainErr))
	}
	if len(mesh.failures) > 0 {
		broken = append(broken, fmt.Errorf("answer evictions: %d neither allowed nor 429, first: %w", len(mesh.failures), mesh.failures[0]))
	}
	if mesh.granted == 0 {
		broken = append(broken, errors.New("drain nodes: no pod was evicted, which proves nothing"))
	}
	return errors.Join(broken...)
}
