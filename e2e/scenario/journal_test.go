package scenario

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/meshpdb/meshpdb/pkg/history"
)

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return midnight.Add(time.Duration(seconds * float64(time.Second)))
}

// mourner is a witness of two clusters with two pods each.
func mourner(events ...sighting) *Witness {
	standing := []sighting{
		{at: at(0), cluster: "c1", uid: "1", name: "db-a", available: true},
		{at: at(0), cluster: "c1", uid: "2", name: "db-b", available: true},
		{at: at(0), cluster: "c2", uid: "3", name: "db-a", available: true},
		{at: at(0), cluster: "c2", uid: "4", name: "db-b", available: true},
	}
	return &Witness{
		workload: &Workload{Clusters: []*Cluster{{Name: "c1"}, {Name: "c2"}}, Namespace: "prod", Name: "db", Replicas: 2},
		events:   append(standing, events...),
	}
}

func asked(cluster, pod string, from, to float64, answer history.Answer) Request {
	return Request{Cluster: cluster, Pod: pod, Asked: at(from), Answered: at(to), Answer: answer}
}

// TestHistory: what a witness saw and callers were answered becomes a history
// that convicts two native budgets, and nobody else.
func TestHistory(t *testing.T) {
	first := sighting{at: at(11.5), cluster: "c1", uid: "1", name: "db-a", ending: true}
	again := sighting{at: at(20), cluster: "c1", uid: "5", name: "db-a", available: true}
	second := sighting{at: at(21.5), cluster: "c2", uid: "3", name: "db-a", ending: true}
	for _, tt := range []struct {
		name     string
		events   []sighting
		requests []Request
		want     history.Verdict
	}{
		{"one goes", []sighting{first}, []Request{asked("c1", "db-a", 11, 12, history.Allowed)}, history.Held},
		{"one is force-deleted", []sighting{{at: at(11.5), cluster: "c1", uid: "1", name: "db-a", gone: true}},
			[]Request{asked("c1", "db-a", 11, 12, history.Allowed)}, history.Held},
		{"nobody asked for it", []sighting{first}, nil, history.Undecided},
		{"it was asked for in the other cluster", []sighting{first}, []Request{asked("c2", "db-a", 11, 12, history.Allowed)}, history.Undecided},
		{"two go", []sighting{first, second}, []Request{
			asked("c1", "db-a", 11, 12, history.Allowed), asked("c2", "db-a", 21, 22, history.Allowed)}, history.Violated},
		{"two go, of one nobody heard the answer", []sighting{first, second}, []Request{
			asked("c1", "db-a", 11, 12, history.Allowed), asked("c2", "db-a", 21, 22, history.Unknown)}, history.Violated},
		{"the second after a replacement", []sighting{first, again, second}, []Request{
			asked("c1", "db-a", 11, 12, history.Allowed), asked("c2", "db-a", 21, 22, history.Allowed)}, history.Held},
		{"a replacement that was told of late", []sighting{first, {at: at(22.3), cluster: "c1", uid: "5", name: "db-c", available: true}, second}, []Request{
			asked("c1", "db-a", 11, 12, history.Allowed), asked("c2", "db-a", 21, 22, history.Allowed)}, history.Held},
		{"the name is used again", []sighting{first, again, {at: at(21.5), cluster: "c1", uid: "5", name: "db-a", ending: true}}, []Request{
			asked("c1", "db-a", 11, 12, history.Allowed), asked("c1", "db-a", 21, 22, history.Allowed)}, history.Held},
		{"a pod that nobody saw is refused", nil, []Request{asked("c1", "db-z", 1, 2, history.Refused)}, history.Held},
		{"unready by itself, long enough to know", []sighting{{at: at(11), cluster: "c1", uid: "2", name: "db-b"}, {at: at(60.5), cluster: "c1", uid: "1", name: "db-a", ending: true}},
			[]Request{asked("c1", "db-a", 60, 61, history.Allowed)}, history.Violated},
		{"unready by itself just now", []sighting{{at: at(11), cluster: "c1", uid: "2", name: "db-b"}, {at: at(20.5), cluster: "c1", uid: "1", name: "db-a", ending: true}},
			[]Request{asked("c1", "db-a", 20, 21, history.Allowed)}, history.Held},
	} {
		h, err := mourner(tt.events...).History(history.Bound{MaxUnavailable: "1"}, &Tally{requests: tt.requests})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		report, err := Judge(h)
		if err != nil || report.Verdict() != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.name, report, err, tt.want)
		}
	}
}

func TestHistoryIsNotMadeUp(t *testing.T) {
	unseen := &Tally{requests: []Request{asked("c1", "db-z", 1, 2, history.Allowed)}}
	if _, err := mourner().History(history.Bound{MaxUnavailable: "1"}, unseen); err == nil || !strings.Contains(err.Error(), "eviction of pod db-z in c1 was allowed, but nobody saw it") {
		t.Errorf("got %v", err)
	}
	if _, err := mourner().History(history.Bound{}); err == nil || !strings.Contains(err.Error(), "bound must be one of") {
		t.Errorf("got %v", err)
	}
	blind := &Witness{workload: &Workload{Name: "db"}}
	if _, err := blind.History(history.Bound{MaxUnavailable: "1"}); err == nil || !strings.Contains(err.Error(), "no pod was seen") {
		t.Errorf("got %v", err)
	}
}

func TestRequests(t *testing.T) {
	tally := NewTally()
	before := time.Now()
	tally.Record("c1", "a", time.Second, nil)
	tally.Record("c2", "b", time.Minute, apierrors.NewTooManyRequests("no", 0))
	tally.Record("c2", "c", time.Second, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "db-0"))
	tally.Record("c3", "d", time.Second, errors.New("broken"))
	tally.Abandon("c1", "e", before)
	want := []string{"c1/a allowed", "c2/b refused", "c2/c failed", "c3/d unknown", "c1/e unknown"}
	got := tally.Requests()
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, r := range got {
		if s := fmt.Sprintf("%s/%s %s", r.Cluster, r.Pod, r.Answer); s != want[i] || r.Answered.Before(before) {
			t.Errorf("request %d: got %s at %s, want %s", i, s, r.Answered, want[i])
		}
	}
	if got[1].Took() != time.Minute || got[4].Asked != before {
		t.Errorf("times: %+v", got)
	}
	if tally.Granted() != 1 || tally.Refused() != 1 || len(tally.Failures()) != 1 {
		t.Errorf("got %d granted, %d refused, failures %v", tally.Granted(), tally.Refused(), tally.Failures())
	}
}

// TestRecordDrain reads what the real kubectl writes.
func TestRecordDrain(t *testing.T) {
	lines := []DrainLine{
		{At: at(1), Text: "node/c1-node-0 cordoned"},
		{At: at(2), Text: "evicting pod prod/db-a"},
		{At: at(2), Text: "evicting pod prod/db-b"},
		{At: at(3), Stderr: true, Text: `error when evicting pods/"db-a" -n "prod" (will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget.`},
		{At: at(8), Text: "evicting pod prod/db-a"},
		{At: at(9), Text: "pod/db-b evicted"},
		{At: at(12), Text: "pod/db-a evicted"},
		{At: at(13), Text: "evicting pod prod/db-c"},
		{At: at(14), Stderr: true, Text: `error when evicting pods/"db-c" -n "prod": Internal error occurred`},
		{At: at(15), Text: "evicting pod prod/db-d"},
		{At: at(16), Text: "node/c1-node-0 drained"},
	}
	tally := NewTally()
	tally.RecordDrain("c1", lines)
	want := []Request{
		asked("c1", "db-a", 1, 3, history.Refused), asked("c1", "db-b", 1, 9, history.Allowed), asked("c1", "db-a", 7, 12, history.Allowed),
		asked("c1", "db-c", 12, 14, history.Unknown), asked("c1", "db-d", 14, 16, history.Unknown),
	}
	if got := tally.Requests(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
