package scenario

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return midnight.Add(time.Duration(seconds * float64(time.Second)))
}

// history reads a line such as "0=9 2=10 | 0-1+ 3-4- 5-6?": from second 0 on
// there are 9 pods, from second 2 on 10; a request from 0 to 1 was granted, one
// from 3 to 4 refused, one from 5 to 6 not answered.
func history(t *testing.T, text string) (levels []Level, requests []Request) {
	t.Helper()
	left, right, _ := strings.Cut(text, "|")
	for _, field := range strings.Fields(left) {
		var second float64
		var available int
		if _, err := fmt.Sscanf(field, "%f=%d", &second, &available); err != nil {
			t.Fatalf("%q: %v", field, err)
		}
		levels = append(levels, Level{At: at(second), Available: available})
	}
	verdicts := map[string]Verdict{"+": Granted, "-": Refused, "?": Unanswered, "!": Failed}
	for _, field := range strings.Fields(right) {
		var asked, answered float64
		var verdict string
		if _, err := fmt.Sscanf(field, "%f-%f%s", &asked, &answered, &verdict); err != nil {
			t.Fatalf("%q: %v", field, err)
		}
		requests = append(requests, Request{Asked: at(asked), Answered: at(answered), Verdict: verdicts[verdict]})
	}
	return levels, requests
}

func TestLongestGap(t *testing.T) {
	const desired = 9
	for _, tt := range []struct{ name, history, want string }{
		{"nothing", "", "none"},
		{"nobody asks", "0=10", "none"},
		{"no pods are seen", "| 0-5-", "none"},
		{"never free", "0=9 | 0-1- 1-2- 2-3-", "none"},
		{"granted at once", "0=10 | 0-1+", "0-1"},
		{"refused all the time", "0=10 | 0-1- 1-2- 2-3- 3-4-", "0-4"},
		{"one request that hangs", "0=10 | 0-9?", "0-9"},
		{"failures are demand as well", "0=10 | 0-1! 1-2! 2-3+", "0-3"},
		{"free in the middle", "0=9 2=10 5=9 | 0-1- 1-2- 2-3- 3-4- 4-5- 5-6- 6-7-", "2-5"},
		{"a grant divides", "0=12 | 0-1- 1-2- 2-3+ 3-4- 4-5- 5-6- 6-7+", "3-7"},
		{"a grant of another divides", "0=12 | 0-8- 2-3+ 5-6+", "0-3"},
		{"not free at the grant's answer any more", "0=10 2=9 5=10 | 0-3+ 3-4- 4-5- 5-6- 6-7-", "0-2, 5-7"},
		{"a pause below a second is demand", "0=10 | 0-0.5- 1.4-2- 2.9-3-", "0-3"},
		{"a longer pause is not", "0=10 | 0-0.5- 3-4- 6-7-", "3-5"},
		{"the last answer ends it", "0=10 9=9 | 0-1- 1-2-", "0-2"},
		{"begins with the first question", "0=10 | 3-4-  4-5-", "3-5"},
		{"unsorted requests", "0=10 | 4-5- 0-1- 3-4- 1-2- 2-3-", "0-5"},
		{"many levels", "0=9 1=10 1.2=11 1.4=12 2=11 3=9 3.5=10 | 0-1- 1-2- 2-3- 3-4-", "1-3"},
	} {
		levels, requests := history(t, tt.history)
		got := "none"
		if s := LongestGap(levels, desired, requests); s != (Span{}) {
			got = fmt.Sprintf("%g-%g", s.From.Sub(midnight).Seconds(), s.To.Sub(midnight).Seconds())
		}
		// Of several gaps of the same length, the first.
		if first, _, _ := strings.Cut(tt.want, ", "); got != first {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestLevels(t *testing.T) {
	w := &Witness{events: []sighting{
		{at: at(0), uid: "a", available: true},
		{at: at(1), uid: "b", available: true},
		{at: at(2), uid: "a"},
		{at: at(3), uid: "a", gone: true},
		{at: at(4), uid: "c", available: true},
	}}
	want := []Level{{at(0), 1}, {at(1), 2}, {at(2), 1}, {at(3), 1}, {at(4), 2}}
	if got := w.Levels(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRequests(t *testing.T) {
	tally := NewTally()
	before := time.Now()
	tally.Record("c1", time.Second, nil)
	tally.Record("c2", time.Minute, apierrors.NewTooManyRequests("no", 0))
	tally.Record("c2", time.Second, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "db-0"))
	tally.Record("c3", time.Second, errors.New("broken"))
	tally.Abandon("c1", before)
	want := []Request{
		{Cluster: "c1", Verdict: Granted}, {Cluster: "c2", Verdict: Refused},
		{Cluster: "c3", Verdict: Failed}, {Cluster: "c1", Verdict: Unanswered},
	}
	got := tally.Requests()
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, r := range got {
		if r.Cluster != want[i].Cluster || r.Verdict != want[i].Verdict || r.Answered.Before(before) {
			t.Errorf("request %d: got %+v, want %+v", i, r, want[i])
		}
	}
	if got[1].Took() != time.Minute || got[3].Asked != before {
		t.Errorf("times: %+v", got)
	}
}
