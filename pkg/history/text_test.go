package history_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// events reads a history from lines such as
//
//	0    c1 states maxUnavailable 1 of 3
//	0    c1/a available
//	1-2  c1/a allowed
//	1.5  c1/a terminating
//
// A number is a second, two are an interval. The interval of an answer is from question to answer;
// "1- c1/a asked" is never answered. A cluster may hold several pods: "c1/a,b". "name=x" at the end is a pod's name.
func events(t *testing.T, text string) history.History {
	t.Helper()
	r := history.NewRecorder(time.Time{}, nil)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		from, to := interval(t, f[0])
		cluster, pods, _ := strings.Cut(f[1], "/")
		e := history.Event{Interval: history.Interval{Earliest: from, Latest: to}, Budget: "prod/db", Cluster: cluster}
		if f[2] == "states" || f[2] == "leaves" {
			e.Kind = history.Budget
			if f[2] == "states" {
				e.Statement = statement(t, f[3:])
			}
			r.Record(e)
			continue
		}
		for pod := range strings.SplitSeq(pods, ",") {
			e.Pod = cluster + pod
			if len(f) > 3 {
				e.Name = strings.TrimPrefix(f[3], "name=")
			}
			record(r, e, f[2])
		}
	}
	h, err := r.History()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func record(r *history.Recorder, e history.Event, verb string) {
	switch answer := history.Answer(verb); answer {
	case history.Allowed, history.Refused, history.Failed, history.Unknown:
		asked := e
		asked.Interval = history.At(e.Earliest)
		r.Ask(asked)(history.At(e.Latest), answer)
	case "asked":
		e.Interval = history.At(e.Earliest)
		r.Ask(e)
	default:
		e.Kind = history.Kind(verb)
		r.Record(e)
	}
}

func interval(t *testing.T, text string) (from, to time.Duration) {
	t.Helper()
	first, second, wide := strings.Cut(text, "-")
	from = seconds(t, first)
	if !wide || second == "" {
		return from, from
	}
	return from, seconds(t, second)
}

func seconds(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func statement(t *testing.T, words []string) *history.Statement {
	t.Helper()
	s := &history.Statement{}
	if words[0] == "minAvailable" {
		s.MinAvailable = words[1]
	} else {
		s.MaxUnavailable = words[1]
	}
	if _, err := fmt.Sscan(words[3], &s.Expected); err != nil {
		t.Fatal(err)
	}
	return s
}
