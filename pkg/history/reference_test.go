package history_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// The reference tries every order of a small history, request by request and with none of the
// checker's shortcuts. It is only meant to be plainly right.

// deed is one thing that takes effect at one moment.
type deed struct {
	from, to time.Duration
	pod      int
	kind     history.Kind
	// sure: the request took effect; otherwise it may have.
	sure bool
}

// truth is where the reference stands.
type truth struct {
	done      []bool
	available []bool
	permitted []bool
	next      []int // of each pod's own changes
}

type reference struct {
	deeds   []deed
	changes [][]int // deeds of each pod's own changes, in order
	desired int
}

func (r *reference) right(s truth) bool {
	var until time.Duration = 1 << 62
	left := 0
	for i, d := range r.deeds {
		if !s.done[i] {
			left++
			until = min(until, d.to)
		}
	}
	if left == 0 {
		return true
	}
	for i, d := range r.deeds {
		if s.done[i] || d.from > until {
			continue
		}
		for _, next := range r.do(s, i, d) {
			if r.right(next) {
				return true
			}
		}
	}
	return false
}

// do returns what may come of a deed.
func (r *reference) do(s truth, i int, d deed) []truth {
	next := truth{slices.Clone(s.done), slices.Clone(s.available), slices.Clone(s.permitted), slices.Clone(s.next)}
	next.done[i] = true
	if d.kind != history.Asked {
		if r.changes[d.pod][s.next[d.pod]] != i || d.kind == history.Terminating && !s.permitted[d.pod] {
			return nil
		}
		next.next[d.pod]++
		next.available[d.pod] = d.kind == history.Available
		return []truth{next}
	}
	all := []truth{}
	if !d.sure {
		all = append(all, next)
		next = truth{next.done, next.available, slices.Clone(next.permitted), next.next}
	}
	next.permitted[d.pod] = true
	counted := 0
	for p := range next.available {
		if next.available[p] && !next.permitted[p] {
			counted++
		}
	}
	if s.permitted[d.pod] || !s.available[d.pod] || counted >= r.desired {
		all = append(all, next)
	}
	return all
}

// small makes a random history of a few events, and the reference's view of it.
func small(random *rand.Rand) (history.History, *reference, time.Duration) {
	const pods, forever = 4, time.Hour
	lag := time.Duration(random.IntN(2))
	r := &reference{desired: pods - 1 - random.IntN(2), changes: make([][]int, pods)}
	rec := history.NewRecorder(time.Time{}, nil)
	rec.Record(history.Event{Kind: history.Budget, Budget: "b", Cluster: "c", Statement: &history.Statement{
		Bound: history.Bound{MinAvailable: fmt.Sprint(r.desired)}, Expected: pods}})
	some := func() history.Interval {
		from := time.Duration(1 + random.IntN(10))
		return history.Interval{Earliest: from, Latest: from + time.Duration(random.IntN(4))}
	}
	for p := range pods {
		e := history.Event{Budget: "b", Cluster: "c", Pod: fmt.Sprint(p)}
		var asked time.Duration = forever
		for range random.IntN(3) {
			e.Interval = some()
			d := deed{from: e.Earliest, to: e.Latest, pod: p, kind: history.Asked, sure: true}
			answer := []history.Answer{history.Allowed, history.Allowed, history.Refused, history.Unknown}[random.IntN(4)]
			at := e.Interval
			e.Interval = history.At(at.Earliest)
			rec.Ask(e)(history.At(at.Latest), answer)
			if answer == history.Refused {
				continue
			}
			if answer == history.Unknown {
				d.sure, d.to = false, forever
			}
			asked = min(asked, d.from)
			r.deeds = append(r.deeds, d)
		}
		r.change(rec, e, p, asked, lag, random, some)
	}
	h, err := rec.History()
	if err != nil {
		panic(err)
	}
	return h, r, lag
}

// change makes up to three changes of a pod, in order.
func (r *reference) change(rec *history.Recorder, e history.Event, p int, asked, lag time.Duration, random *rand.Rand, some func() history.Interval) {
	available := random.IntN(4) > 0
	if available {
		e.Kind, e.Interval = history.Available, history.At(0)
		rec.Record(e)
		r.deeds = append(r.deeds, deed{from: -1, to: -1, pod: p, kind: history.Available})
		r.changes[p] = append(r.changes[p], len(r.deeds)-1)
	}
	before := history.Interval{}
	for range random.IntN(4) {
		at := some()
		before = history.Interval{Earliest: max(before.Earliest, at.Earliest), Latest: max(before.Latest, at.Latest)}
		e.Interval, available = before, !available
		e.Kind = history.Available
		if !available {
			e.Kind = []history.Kind{history.Unavailable, history.Terminating, history.Lost}[random.IntN(3)]
		}
		if e.Kind == history.Terminating && asked > e.Latest {
			e.Kind = history.Lost
		}
		rec.Record(e)
		d := deed{from: e.Earliest, to: e.Latest, pod: p, kind: e.Kind}
		if e.Kind == history.Unavailable || e.Kind == history.Lost {
			d.to += lag
		}
		r.deeds = append(r.deeds, d)
		r.changes[p] = append(r.changes[p], len(r.deeds)-1)
		if e.Kind == history.Terminating || e.Kind == history.Lost {
			return
		}
	}
}

// TestAgainstReference compares the checker with the reference on random small histories.
func TestAgainstReference(t *testing.T) {
	n := 8000
	if testing.Short() {
		n = 500
	}
	found := map[history.Verdict]int{}
	for seed := range uint64(n) {
		h, r, lag := small(rand.New(rand.NewPCG(seed, 1)))
		if len(r.deeds) > 13 {
			continue
		}
		want := history.Violated
		pods := len(r.changes)
		if r.right(truth{make([]bool, len(r.deeds)), make([]bool, pods), make([]bool, pods), make([]int, pods)}) {
			want = history.Held
		}
		report, err := history.Check(h, history.Options{Lag: lag})
		if err != nil {
			t.Fatal(err)
		}
		if got := report.Verdict(); got != want {
			var text strings.Builder
			for _, e := range h.Events {
				fmt.Fprintf(&text, "%d-%d %s %s request %d %s\n", e.Earliest, e.Latest, e.Kind, e.Pod, e.Request, e.Answer)
			}
			t.Fatalf("seed %d: got %s, want %s, lag %d, desired %d\n%s%s", seed, got, want, lag, r.desired, &text, report)
		}
		found[want]++
	}
	if min(found[history.Held], found[history.Violated]) < n/10 {
		t.Errorf("the histories are one-sided: %v", found)
	}
}
