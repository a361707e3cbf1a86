package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// kept writes a history of three pods of which so many are disrupted at once,
// under a budget of one.
func kept(t *testing.T, disrupted string, asked bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run.jsonl")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := history.NewRecorder(time.Now(), file)
	e := history.Event{Kind: history.Budget, Budget: "prod/db", Cluster: "c1", Statement: &history.Statement{Bound: history.Bound{MaxUnavailable: "1"}, Expected: 3}}
	r.Record(e)
	e.Statement = nil
	for _, pod := range "abc" {
		e.Pod, e.Kind = string(pod), history.Available
		r.Record(e)
	}
	for _, pod := range disrupted {
		e.Pod, e.Interval = string(pod), history.At(time.Second)
		if asked {
			r.Ask(e)(history.At(2*time.Second), history.Allowed)
		}
		e.Kind, e.Interval = history.Terminating, history.At(2*time.Second)
		r.Record(e)
	}
	if _, err := r.History(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	held, violated, undecided := kept(t, "a", true), kept(t, "ab", true), kept(t, "a", false)
	cut := kept(t, "ab", true)
	content, err := os.ReadFile(cut)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, append(content, `{"earl`...), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.jsonl")
	if err := os.WriteFile(broken, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(t.TempDir(), "page.html")
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"held", []string{held}, exitHeld, "prod/db: held"},
		{"violated", []string{"-picture", page, held, violated}, exitViolated, "1 of 3 pods would have counted without it, and the budget wanted 2"},
		{"undecided", []string{held, undecided}, exitUndecided, "nobody asked for it"},
		{"cut off", []string{cut}, exitViolated, "prod/db: violated"},
		{"idle", []string{"-idle", "500ms", held}, exitViolated, "at most 500ms is asked for"},
		{"broken", []string{broken}, exitUndecided, "version 0, this reads 1"},
		{"missing", []string{filepath.Join(t.TempDir(), "none")}, exitUndecided, "no such file"},
		{"none", nil, exitUndecided, "name the histories"},
		{"wrong flag", []string{"-x"}, exitUndecided, "not defined"},
	} {
		var out bytes.Buffer
		if code := run(tt.args, &out, &out); code != tt.code || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%s: got exit code %d and\n%s", tt.name, code, &out)
		}
	}
	if drawn, err := os.ReadFile(page); err != nil || !strings.Contains(string(drawn), "disruption of b of c1 was allowed") {
		t.Errorf("got %d bytes of picture, %v", len(drawn), err)
	}
}
