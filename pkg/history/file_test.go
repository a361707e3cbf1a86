package history_test

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

const sample = nine + `
	1-2 c1/a allowed name=db-0
	1.4-1.5 c1/a terminating name=db-0
	3-4 c2/a unknown
	5 c2/b unavailable
	6 c2/c lost
	7 c3 leaves
	8 c1 states minAvailable 60% of 3`

// TestGolden keeps the format: files of today can be read tomorrow.
func TestGolden(t *testing.T) {
	h := events(t, sample)
	h.Start = start
	var b bytes.Buffer
	if err := history.Write(&b, h); err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/v1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(golden) {
		t.Errorf("got\n%s", &b)
	}
	read, err := history.Read(bytes.NewReader(golden))
	if err != nil || !reflect.DeepEqual(read, h) {
		t.Errorf("got %+v, %v", read, err)
	}
}

func TestReadErrors(t *testing.T) {
	const head = `{"meshpdbHistory":1,"start":"2026-01-02T03:04:05Z"}` + "\n"
	const lost = `{"earliest":1,"latest":1,"kind":"lost","budget":"b","cluster":"c","pod":"p"}` + "\n"
	for _, tt := range []struct {
		text, want string
		events     int
	}{
		{"", "line 1: EOF", 0},
		{"hello\n", "line 1: invalid character", 0},
		{`{"meshpdbHistory":2}` + "\n", "line 1: version 2, this reads 1", 0},
		{`{}` + "\n", "line 1: version 0, this reads 1", 0},
		{head + lost + "\n", "line 3: EOF", 1},
		{head + lost + `{"kind":"lost"}` + "\n", "line 3: lost names no budget or no cluster", 1},
		{head + lost + `{"kind":"lost","weather":"fine"}` + "\n", `line 3: json: unknown field "weather"`, 1},
		{head + lost + strings.Repeat(" ", 20000) + lost, "line 3: longer than 16384 bytes", 1},
		{head + lost + lost[:40], "line 3: last line is not complete", 1},
		{head + lost, "", 1},
	} {
		h, err := history.Read(strings.NewReader(tt.text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%.40q: got %v, want %q", tt.text, err, tt.want)
		}
		if len(h.Events) != tt.events {
			t.Errorf("%.40q: got %d events, want %d", tt.text, len(h.Events), tt.events)
		}
	}
	if _, err := history.Read(strings.NewReader(head + lost[:40])); !errors.Is(err, history.ErrTruncated) {
		t.Errorf("got %v", err)
	}
}

func TestWriteErrors(t *testing.T) {
	huge := history.Event{Kind: history.Lost, Budget: "b", Cluster: "c", Pod: strings.Repeat("p", 20000)}
	for want, e := range map[string]history.Event{
		"write history: line of 20": huge,
		`write history: kind ""`:    {},
	} {
		if err := history.Write(&bytes.Buffer{}, history.History{Events: []history.Event{e}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	full := errors.New("disk is full")
	if err := history.Write(failing{full}, history.History{}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	r := history.NewRecorder(start, failing{full})
	r.Record(history.Event{Kind: history.Lost, Budget: "b", Cluster: "c", Pod: "p"})
	if h, err := r.History(); !errors.Is(err, full) || len(h.Events) != 1 {
		t.Errorf("got %+v, %v", h, err)
	}
	r = history.NewRecorder(start, nil)
	r.Record(history.Event{Kind: "nonsense"})
	if _, err := r.History(); err == nil {
		t.Error("an event that cannot be understood was recorded")
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestRecorderStreams: what a Recorder wrote until it was killed is its history.
func TestRecorderStreams(t *testing.T) {
	var b bytes.Buffer
	r := history.NewRecorder(start, &b)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 20 {
				at := history.At(r.Since(start.Add(time.Second)))
				r.Ask(history.Event{Interval: at, Budget: "b", Cluster: "c", Pod: "p"})(at, history.Refused)
			}
		})
	}
	callers.Wait()
	want, err := r.History()
	if err != nil {
		t.Fatal(err)
	}
	got, err := history.Read(&b)
	if err != nil || !reflect.DeepEqual(got, want) || len(got.Events) != 320 || got.Events[0].Latest != time.Second {
		t.Errorf("got %d events, %v", len(got.Events), err)
	}
	report, err := history.Check(got, history.Options{})
	if err != nil || report.Verdict() != history.Held || report.Budgets[0].Refused != 160 {
		t.Errorf("got %s, %v", report, err)
	}
}
