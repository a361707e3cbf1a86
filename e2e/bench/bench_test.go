package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/live"
	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/bench/recorded"
	"github.com/meshpdb/meshpdb/e2e/bench/stats"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// spread is a distribution around a time.
func spread(around time.Duration) stats.Distribution {
	var all []time.Duration
	for i := range 100 {
		all = append(all, around*time.Duration(75+i/2)/100)
	}
	return stats.Of(all)
}

func distance(rtt time.Duration) live.Distance {
	race := live.Race{
		Took: 10 * time.Second, Granted: 90, Refused: 1200, GrantSeen: spread(rtt + 60*time.Millisecond), RefusalSeen: spread(9 * time.Millisecond),
		Gap: 700 * time.Millisecond, Worst: 10, Busy: 0.9,
		Answers: live.Answers{Grants: spread(rtt + 50*time.Millisecond), Cached: spread(120 * time.Microsecond), Decided: spread(rtt + 40*time.Millisecond)},
		Steps: live.Steps{Decisions: 120, PerWrite: 1.5, PerRound: 2.25, Steps: []live.Step{
			{Name: "AppendClaim", Times: 1, Mean: 9 * time.Millisecond}, {Name: "ReadClusters", Times: 1.4, Mean: rtt + 11*time.Millisecond},
			{Name: "AwaitChange", Times: 0.4, Mean: 30 * time.Millisecond}, {Name: "GrantClaim", Times: 0.75, Mean: 8 * time.Millisecond},
		}},
	}
	calm := live.Calm{
		Seen: spread(rtt + 20*time.Millisecond), Write: spread(2 * time.Millisecond), Read: spread(rtt + time.Millisecond),
		Answers: live.Answers{Grants: spread(rtt + 14*time.Millisecond)}, Spent: live.Answers{Cached: spread(90 * time.Microsecond)},
		Steps: live.Steps{Decisions: 60, Steps: []live.Step{
			{Name: "AppendClaim", Times: 1, Mean: 5 * time.Millisecond}, {Name: "ReadClusters", Times: 1, Mean: rtt + 2*time.Millisecond}, {Name: "GrantClaim", Times: 1, Mean: 4 * time.Millisecond},
		}},
	}
	return live.Distance{RTT: rtt, Calm: calm, Race: race}
}

func chapters() []chapter {
	native := live.Race{Took: 10 * time.Second, Granted: 120, Refused: 1500, GrantSeen: spread(12 * time.Millisecond), RefusalSeen: spread(8 * time.Millisecond), Gap: 300 * time.Millisecond, Worst: 10, Busy: 0.75}
	missed := distance(80 * time.Millisecond)
	missed.Calm.Answers.Grants, missed.Calm.Refused = spread(180*time.Millisecond), 2
	var meshes []recorded.Mesh
	var endpoints []recorded.Endpoints
	var budgets []recorded.Budgets
	for _, n := range []int{3, 255} {
		d := time.Duration(n)
		meshes = append(meshes, recorded.Mesh{
			Clusters: n, Core: spread(d * time.Microsecond), Refusal: spread(3 * d * time.Microsecond), Preview: spread(d * time.Millisecond), Grant: spread(2 * d * time.Millisecond),
			Standing: recorded.Usage{Memory: float64(n) * 300_000, Goroutines: 9 * n, Connections: n}, Ready: d * 10 * time.Millisecond,
		})
		endpoints = append(endpoints, recorded.Endpoints{Endpoints: 10 * n, Snapshot: spread(d * time.Millisecond), Bytes: float64(1000 * n)})
		budgets = append(budgets, recorded.Budgets{
			Budgets: 100 * n, Refusal: spread(5 * time.Microsecond), Preview: spread(time.Millisecond),
			Standing: recorded.Usage{Memory: float64(1_000_000 + 300_000*n)}, Ready: d * time.Millisecond,
		})
	}
	paced := make([]live.Result, len(paces))
	for i := range paced {
		paced[i] = live.Result{Native: native, Distances: []live.Distance{distance(paceRTT)}}
	}
	flows := []recorded.Flows{
		{Setting: "off", P50: 20 * time.Microsecond, Mean: 25 * time.Microsecond, P99: 90 * time.Microsecond, CPU: 30 * time.Microsecond, Offered: 280_000, Rate: 20_000},
		{Setting: "ring", P50More: .02, MeanMore: .008, P50: 20_400, Mean: 25_200, P99: 91 * time.Microsecond, CPU: 31 * time.Microsecond, Offered: 280_000, Rate: 20_000, Shown: 280_000},
		{Setting: "ring and export", P50More: .05, MeanMore: .08, P50: 21_000, Mean: 27 * time.Microsecond, P99: 95 * time.Microsecond, CPU: 29 * time.Microsecond, Offered: 280_000, Rate: 19_990, Shown: 279_000, Lost: 1000, Exported: 279_000},
	}
	return []chapter{
		latencyChapter(live.Result{Native: native, Distances: []live.Distance{distance(0), missed}}),
		paceChapter(paced),
		clustersChapter(meshes), endpointsChapter(endpoints), budgetsChapter(budgets),
		flowsChapter(recorded.FlowOptions{Rate: flowRate, Time: 2 * time.Second, Rounds: 7}, flows),
	}
}

func TestDocument(t *testing.T) {
	f := facts{cores: 2, model: "Example CPU", memory: 8 << 30, kernel: "6.1.0", golang: "go1.26.0", date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	files, err := render(f, 12*time.Minute, chapters())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", documentName)
	if *update {
		if err := os.WriteFile(golden, files[documentName], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files[documentName], want) {
		t.Errorf("differs from %s, see what -update changes; got\n%s", golden, files[documentName])
	}
	for name := range files {
		shown := strings.Contains(string(want), "]("+name+")")
		if name != documentName && !shown {
			t.Errorf("%s is not shown", name)
		}
	}
	if n := strings.Count(string(want), "](performance-"); n != len(files)-1 {
		t.Errorf("%d charts are shown, %d are drawn", n, len(files)-1)
	}
}

func TestMeasureWritesWhatIsWanted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"performance-old.svg", "unrelated.svg"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say := func(text string) section {
		return section{text, func(context.Context, options, io.Writer) (chapter, error) {
			return chapter{write: func(d *paper.Document) { d.Say("about %s", text) }}, nil
		}}
	}
	broken := section{"broken", func(context.Context, options, io.Writer) (chapter, error) { return chapter{}, errors.New("no luck") }}
	all := []section{say("one"), broken, say("two")}
	if err := measure(t.Context(), options{only: []string{"two", "one"}, out: dir}, all, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, documentName))
	if err != nil || strings.Index(string(text), "about one") > strings.Index(string(text), "about two") || !strings.Contains(string(text), "about one") {
		t.Errorf("got %v\n%s", err, text)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "unrelated.svg" {
		t.Errorf("charts: %v, %v", left, err)
	}
	if err := measure(t.Context(), options{out: dir}, all, io.Discard); err == nil || err.Error() != "measure broken: no luck" {
		t.Errorf("got %v", err)
	}
}

// TestScale: whoever measures it, the section writes what was measured.
func TestScale(t *testing.T) {
	s := scaled(func(_ context.Context, pods int, _ io.Writer) (footprint, error) {
		return footprint{
			pods: pods, budgets: 10_000, empty: use{heap: 10 << 20, rss: 60 << 20, peak: 70 << 20},
			first: use{ready: 4 * time.Second, published: 20 * time.Second, written: 50 * time.Second, heap: 300 << 20, rss: 500 << 20, peak: 700 << 20, cpu: 40 * time.Second},
			again: use{ready: 3 * time.Second, published: 6 * time.Second, written: 7 * time.Second, heap: 300 << 20, rss: 480 << 20, peak: 650 << 20, cpu: 12 * time.Second},
		}, nil
	})
	c, err := s.measure(t.Context(), options{pods: 100_000}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var d paper.Document
	c.write(&d)
	for _, want := range []string{"100,000 pods and 10,000 budgets", "2.97 KiB of heap", "| first start    | 4.00 s |    20.0 s |           50.0 s |  300 MiB |"} {
		if !strings.Contains(d.String(), want) {
			t.Errorf("%q is not in\n%s", want, d.String())
		}
	}
}

func TestParse(t *testing.T) {
	all := sections()
	for _, tt := range []struct {
		args string
		want func(o options) bool
	}{
		{"", func(o options) bool {
			return o.out == "docs" && o.duration == time.Minute && len(o.rtts) == 3 && o.wants("latency") && o.wants("budgets")
		}},
		{"--quick", func(o options) bool { return o.out == "bin/bench" && o.duration == 8*time.Second && len(o.meshes) == 2 }},
		{"--quick --duration 20s --out x", func(o options) bool { return o.out == "x" && o.duration == 20*time.Second }},
		{"--only clusters,budgets", func(o options) bool {
			return o.out == "bin/bench" && o.wants("clusters") && o.wants("budgets") && !o.wants("latency")
		}},
	} {
		if o, err := parse(strings.Fields(tt.args), all, io.Discard); err != nil || !tt.want(o) {
			t.Errorf("%q: got %+v, %v", tt.args, o, err)
		}
	}
	for args, want := range map[string]string{
		"--only nonsense":        `--only "nonsense": there is no section "nonsense", but latency, pace, clusters, endpoints, budgets, flows, scale`,
		"--only latency,latency": `--only "latency,latency": latency is named twice`,
		"--only=":                `--only "": there is no section ""`,
		"--duration 0s":          "--duration 0s: not between 1s and 10m",
		"--duration 1h":          "--duration 1h0m0s: not between 1s and 10m",
		"--duration -1s":         "--duration -1s: not between 1s and 10m",
		"--duration soon":        "invalid value",
		"--out= --quick":         "--out: no folder is named",
		"latency":                `unexpected "latency"`,
		"--every":                "flag provided but not defined",
	} {
		if _, err := parse(strings.Fields(args), all, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

func TestFacts(t *testing.T) {
	files := map[string]string{
		"/proc/cpuinfo":              "processor\t: 0\nmodel name\t: Example CPU @ 3.00GHz\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: Another\n",
		"/proc/meminfo":              "MemTotal:        8388608 kB\nMemFree:         1 kB\n",
		"/proc/sys/kernel/osrelease": "6.1.0-13-cloud-amd64\n",
	}
	read := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, os.ErrNotExist
		}
		return []byte(text), nil
	}
	f, err := readFacts(read)
	if err != nil || f.model != "Example CPU @ 3.00GHz" || f.memory != 8<<30 || f.kernel != "6.1.0-13-cloud-amd64" || f.cores < 1 || f.golang == "" {
		t.Errorf("got %+v, %v", f, err)
	}
	files["/proc/meminfo"] = "none\n"
	if _, err := readFacts(read); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("without memory: %v", err)
	}
	delete(files, "/proc/cpuinfo")
	if _, err := readFacts(read); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	files["/proc/cpuinfo"], files["/proc/meminfo"] = "CPU part : 0xd0c\n", "MemTotal: 1 kB\n"
	if f, err := readFacts(read); err != nil || f.model == "" {
		t.Errorf("without a model: %+v, %v", f, err)
	}
}
