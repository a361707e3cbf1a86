package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/paper"
)

// section is a part of the document and the measurement that it rests on.
type section struct {
	name string
	// measure returns what is to be written about it.
	measure func(ctx context.Context, o options, progress io.Writer) (chapter, error)
}

// chapter is the text about what was measured, ready to be written.
type chapter struct {
	write  func(d *paper.Document)
	charts map[string]paper.Chart // by file name
}

// sections in the order of the document.
func sections() []section {
	return []section{
		{"latency", measureLatency},
		{"pace", measurePace},
		{"clusters", measureClusters},
		{"endpoints", measureEndpoints},
		{"budgets", measureBudgets},
		{"flows", measureFlows},
		scaled(measureScale),
	}
}

// measure measures the sections that are wanted and writes the document.
func measure(ctx context.Context, o options, all []section, progress io.Writer) error {
	facts, err := readFacts(os.ReadFile)
	if err != nil {
		return err
	}
	start := time.Now()
	facts.date = start
	var chapters []chapter
	var failure error
	for _, s := range all {
		if !o.wants(s.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(progress, "== %s\n", s.name)
		c, err := s.measure(ctx, o, progress)
		if err != nil {
			// What was measured is not lost; the document lacks this section.
			failure = errors.Join(failure, fmt.Errorf("measure %s: %w", s.name, err))
			continue
		}
		fmt.Fprintf(progress, "== %s took %s\n", s.name, time.Since(began).Round(time.Second))
		chapters = append(chapters, c)
	}
	files, err := render(facts, time.Since(start), chapters)
	if err != nil {
		return err
	}
	if err := publish(o.out, files); err != nil {
		return err
	}
	fmt.Fprintf(progress, "wrote %s\n", filepath.Join(o.out, documentName))
	return failure
}

// documentName is that of the Markdown file; chartPattern matches its charts.
const (
	documentName = "performance.md"
	chartPattern = "performance-*.svg"
)

// render returns the files by name.
func render(f facts, took time.Duration, chapters []chapter) (map[string][]byte, error) {
	var d paper.Document
	d.Heading(1, "Performance")
	f.write(&d, took)
	files := map[string][]byte{}
	for _, c := range chapters {
		c.write(&d)
		for name, chart := range c.charts {
			svg, err := chart.SVG()
			if err != nil {
				return nil, err
			}
			files[name] = svg
		}
	}
	files[documentName] = []byte(d.String())
	return files, nil
}

// publish writes the files, and removes the charts of earlier runs.
func publish(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	stale, err := filepath.Glob(filepath.Join(dir, chartPattern))
	if err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	var errs []error
	for _, path := range stale {
		if files[filepath.Base(path)] == nil {
			errs = append(errs, os.Remove(path))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), files[name], 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}
