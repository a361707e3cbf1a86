package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// decisionsShown is how many of a cluster's last decisions the table shows.
const decisionsShown = 2

// frame is one moment of a maintenance.
type frame struct {
	elapsed time.Duration
	rows    []row
	// allowed and worst so far are numbers of missing pods in all clusters together.
	allowed, worst   int
	granted, refused int
	refusal          scenario.Refusal
}

// row is one cluster.
type row struct {
	cluster             string
	available, expected int
	node                string
	decisions           []string // newest last
}

// line is a line of a frame. An alarming one says that the bound is broken.
type line struct {
	text     string
	alarming bool
}

// lines draws the frame, none longer than width.
func (f frame) lines(width int) []line {
	lines := f.table()
	lines = append(lines, line{})
	for _, r := range f.rows {
		for _, d := range r.decisions {
			lines = append(lines, line{text: fmt.Sprintf("%-10s%s", r.cluster, d)})
		}
	}
	if f.refusal.Sentence != "" {
		lines = append(lines, line{})
		for _, text := range wrap("The last refusal, in "+f.refusal.Cluster+": "+f.refusal.Sentence, width) {
			lines = append(lines, line{text: text})
		}
	}
	for i := range lines {
		lines[i].text = clip(strings.TrimRight(lines[i].text, " "), width)
	}
	return lines
}

func (f frame) table() []line {
	const format = "%-10s%-12s%-12s%s"
	seconds := int(f.elapsed.Seconds())
	lines := []line{
		{fmt.Sprintf("%d:%02d   %s allowed, %d refused", seconds/60, seconds%60, count(f.granted, "eviction"), f.refused), false},
		{fmt.Sprintf("       worst moment so far: %s unavailable, %d allowed", count(f.worst, "pod"), f.allowed), f.worst > f.allowed},
		{},
		{fmt.Sprintf(format, "CLUSTER", "AVAILABLE", "IN FLIGHT", "DRAINING"), false},
	}
	var available, expected int
	for _, r := range f.rows {
		lines = append(lines, line{text: fmt.Sprintf(format, r.cluster, share(r.available, r.expected), fmt.Sprint(r.expected-r.available), r.node)})
		available += r.available
		expected += r.expected
	}
	missing := expected - available
	return append(lines, line{fmt.Sprintf(format, "mesh", share(available, expected), fmt.Sprint(missing), ""), missing > f.allowed})
}

func share(n, of int) string { return fmt.Sprintf("%d/%d", n, of) }

// clip cuts a line that is too long, and says so.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + "…"
}

// wrap breaks text into lines at its spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, clip(line, width))
			line = word
		}
	}
	return append(lines, clip(line, width))
}

// count says a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
