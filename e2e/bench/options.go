package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// options are the flags, and what follows from them.
type options struct {
	only     []string // sections; empty: all
	duration time.Duration
	out      string

	// How much is measured.
	rtts      []time.Duration
	polite    int
	samples   int
	meshes    []int
	endpoints []int
	budgets   []int
	pods      int // of the section scale
	// flowTime and flowRounds of the section flows.
	flowTime   time.Duration
	flowRounds int
}

// Where the document goes: a part of it must not replace the whole.
const (
	wholeOut = "docs"
	partOut  = "bin/bench"
)

func parse(args []string, all []section, stderr io.Writer) (options, error) {
	var o options
	var only string
	var quick bool
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&only, "only", "", "`sections` to measure, separated by commas, of "+strings.Join(names, ", ")+"; default: all")
	flags.DurationVar(&o.duration, "duration", 0, "`time` of each race of eager callers, default 1m, or 8s with --quick")
	flags.BoolVar(&quick, "quick", false, "measure little of everything: shows that it works, and figures that mean little")
	flags.StringVar(&o.out, "out", "", "`folder` to write performance.md and its charts to; default: "+wholeOut+", or "+partOut+" with --only or --quick")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("parse arguments: unexpected %q", flags.Arg(0))
	}
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if set["duration"] && (o.duration < time.Second || o.duration > 10*time.Minute) {
		return o, fmt.Errorf("parse arguments: --duration %s: not between 1s and 10m", o.duration)
	}
	o.amounts(quick)
	switch {
	case set["out"] && o.out == "":
		return o, errors.New("parse arguments: --out: no folder is named")
	case o.out == "" && (set["only"] || quick):
		o.out = partOut
	case o.out == "":
		o.out = wholeOut
	}
	var err error
	if set["only"] {
		o.only, err = selected(only, names)
	}
	return o, err
}

// amounts says how much is measured.
func (o *options) amounts(quick bool) {
	length := time.Minute
	o.rtts = []time.Duration{0, 20 * time.Millisecond, 80 * time.Millisecond}
	o.polite, o.samples = 60, 100
	o.meshes, o.endpoints, o.budgets = []int{3, 16, 64, 255}, []int{0, 500, 5000}, []int{10, 1000, 10_000}
	o.pods = 100_000
	o.flowTime, o.flowRounds = time.Second, 15
	if quick {
		length, o.polite, o.samples = 8*time.Second, 6, 10
		o.meshes, o.endpoints, o.budgets = o.meshes[:2], o.endpoints[:2], o.budgets[:2]
		o.pods = 3000
		o.flowTime, o.flowRounds = 500*time.Millisecond, 1
	}
	if o.duration == 0 {
		o.duration = length
	}
}

func selected(list string, names []string) ([]string, error) {
	var chosen []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		switch {
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("parse arguments: --only %q: there is no section %q, but %s", list, name, strings.Join(names, ", "))
		case slices.Contains(chosen, name):
			return nil, fmt.Errorf("parse arguments: --only %q: %s is named twice", list, name)
		}
		chosen = append(chosen, name)
	}
	return chosen, nil
}

// wants tells whether a section is to be measured.
func (o options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }
