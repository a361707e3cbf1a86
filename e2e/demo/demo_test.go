package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", ""},
		{"--native=false --clusters 2 --max-unavailable 5 --rtt 80ms", ""},
		{"--clusters 1", "--clusters 1: the demo needs at least 2"},
		{"--nodes 1", "--nodes 1: pods of a drained node need another one"},
		{"--replicas 0", "--replicas 0: the demo needs at least 1"},
		{"--max-unavailable 0", "--max-unavailable 0: not between 1 and 8"},
		{"--max-unavailable 9", "--max-unavailable 9: not between 1 and 8"},
		{"now", `unexpected "now"`},
	} {
		_, err := parse(strings.Fields(c.args), io.Discard)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("parse %q: got %v, want %q", c.args, err, c.want)
		}
	}
}

func TestRunRefusesArguments(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"--clusters=1"}, &stdout, &stderr); code != 2 || stdout.Len() > 0 {
		t.Errorf("got %d and %q, want 2 and nothing on stdout", code, stdout.String())
	}
	if code := run(context.Background(), []string{"--help"}, &stdout, &stderr); code != 0 {
		t.Errorf("--help: got %d, want 0", code)
	}
}

func exampleFrame() frame {
	return frame{
		elapsed: 83 * time.Second, allowed: 1, worst: 2, granted: 1, refused: 3,
		rows: []row{
			{cluster: "c1", available: 2, expected: 3, node: "c1-node-2", decisions: []string{"refused: evicting db-1 would leave 7 pods", "allowed"}},
			{cluster: "c2", available: 2, expected: 3, node: "done"},
			{cluster: "c3", available: 3, expected: 3},
		},
		refusal: scenario.Refusal{Cluster: "c1", Sentence: "evicting db-1 would leave 7 pods and maxUnavailable 1 needs 8"},
	}
}

func TestFrame(t *testing.T) {
	want := strings.TrimPrefix(`
1:23   1 eviction allowed, 3 refused
       worst moment so far: 2 pods unav…

CLUSTER   AVAILABLE   IN FLIGHT   DRAIN…
c1        2/3         1           c1-no…
c2        2/3         1           done
c3        3/3         0
mesh      7/9         2

c1        refused: evicting db-1 would …
c1        allowed

The last refusal, in c1: evicting db-1
would leave 7 pods and maxUnavailable 1
needs 8
`, "\n")
	lines := exampleFrame().lines(40)
	if got := text(lines); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for i, l := range lines {
		if broken := i == 1 || i == 7; l.alarming != broken {
			t.Errorf("line %q: alarming is %t", l.text, l.alarming)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text, want string
		width      int
	}{
		{"", "", 10},
		{"one two  three", "one two|three", 8},
		{"a verylongword b", "a|veryl…|b", 6},
		{"äöü äöü", "äöü äöü", 7},
	} {
		if got := strings.Join(wrap(c.text, c.width), "|"); got != c.want {
			t.Errorf("wrap %q at %d: got %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestDrawInPlace(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, terminal: true, colour: true, size: func() (int, int) { return 80, 4 }}
	s.begin()
	s.draw(exampleFrame())
	if strings.Contains(out.String(), "A\r") || !strings.Contains(out.String(), red) {
		t.Errorf("the first frame: got %q, want no movement up, and an alarming line", out.String())
	}
	out.Reset()
	s.draw(exampleFrame())
	if !strings.HasPrefix(out.String(), "\x1b[3A\r1:23") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("the second frame: got %q, want 3 lines over the first", out.String())
	}
}

func TestDrawOnNoTerminal(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.begin()
	s.draw(exampleFrame())
	s.draw(exampleFrame())
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "1:23") != 2 {
		t.Errorf("got %q, want two plain frames", out.String())
	}
}

func TestSummary(t *testing.T) {
	mesh := result{name: "meshpdb", worst: 1, allowed: 1, granted: 13, refused: 30, medianGrant: 143*time.Millisecond + 7, took: 57 * time.Second}
	native := result{name: "native budgets", worst: 3, allowed: 1, granted: 12, refused: 8, medianGrant: 9 * time.Millisecond, took: 20 * time.Second, drainErr: errors.New("x")}
	want := strings.TrimPrefix(`
                                       native budgets   meshpdb
pods that may be unavailable           1                1
pods unavailable at the worst moment   3                1
evictions allowed                      12               13
evictions refused                      8                30
median time to allow one               9ms              143ms
time of all drains                     20s              57s
drains                                 failed           completed`, "\n")
	if got := strings.Join(summary(&native, mesh), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := summary(nil, mesh); strings.Contains(strings.Join(got, "\n"), "native") {
		t.Errorf("without native budgets: got %q", got)
	}
	native.worst = 1
	if got := strings.Join(summary(&native, mesh), "\n"); !strings.Contains(got, "by luck") {
		t.Errorf("native budgets that held: got %q", got)
	}
}

func TestVerdict(t *testing.T) {
	held := result{worst: 1, allowed: 1, granted: 13}
	for _, c := range []struct {
		name  string
		spoil func(*result)
		want  string
	}{
		{"held", func(*result) {}, ""},
		{"bound", func(r *result) { r.worst = 2 }, "keep bound: 2 pods missing, 1 allowed"},
		{"drain", func(r *result) { r.drainErr = errors.New("node c1-node-1: timeout") }, "complete drains: node c1-node-1: timeout"},
		{"answers", func(r *result) { r.failures = []error{errors.New("500")} }, "answer evictions: 1 neither allowed nor 429, first: 500"},
		{"nothing", func(r *result) { r.granted = 0 }, "drain nodes: no pod was evicted, which proves nothing"},
		{"two", func(r *result) { r.worst, r.granted = 2, 0 }, "keep bound: 2 pods missing, 1 allowed; drain nodes: no pod was evicted, which proves nothing"},
	} {
		r := held
		c.spoil(&r)
		got := ""
		if err := verdict(r); err != nil {
			got = oneLine(err)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
