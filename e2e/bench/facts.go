package main

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/paper"
)

// facts are what the figures depend on besides the code.
type facts struct {
	cores          int
	model          string // of the CPU
	memory         float64
	kernel, golang string
	date           time.Time
}

// readFacts reads what Linux says of the machine.
func readFacts(read func(path string) ([]byte, error)) (facts, error) {
	f := facts{cores: runtime.NumCPU(), golang: runtime.Version()}
	text := map[string]string{}
	for _, path := range []string{"/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel/osrelease"} {
		content, err := read(path)
		if err != nil {
			return facts{}, fmt.Errorf("read facts of the machine: %w", err)
		}
		text[path] = string(content)
	}
	f.kernel = strings.TrimSpace(text["/proc/sys/kernel/osrelease"])
	// Not every architecture names its model.
	if f.model = field(text["/proc/cpuinfo"], "model name"); f.model == "" {
		f.model = runtime.GOARCH
	}
	kib, err := strconv.ParseFloat(strings.TrimSuffix(field(text["/proc/meminfo"], "MemTotal"), " kB"), 64)
	if err != nil {
		return facts{}, fmt.Errorf("read facts of the machine: memory: %w", err)
	}
	f.memory = kib * 1024
	return f, nil
}

// field returns the value of the first "name : value" line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (f facts) write(d *paper.Document, took time.Duration) {
	d.Say("Written by `make bench`: every figure below was measured in one run of %.0f minutes, and what it is compared with in the same run. "+
		"Clusters, callers and controllers shared one machine, so read the ratios and how figures grow rather than the figures.", max(1, took.Minutes()))
	t := paper.Table{Words: 2, Columns: []string{"machine", ""}}
	t.Row("CPU", f.model)
	t.Row("cores", strconv.Itoa(f.cores))
	t.Row("memory", paper.Bytes(f.memory))
	t.Row("kernel", f.kernel)
	t.Row("Go", f.golang)
	t.Row("date", f.date.UTC().Format(time.DateOnly))
	d.Table(t)
}
