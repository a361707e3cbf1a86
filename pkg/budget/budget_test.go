package budget

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var (
	max1  = Bound{Kind: MaxUnavailable, Value: 1}
	min2  = Bound{Kind: MinAvailable, Value: 2}
	min5  = Bound{Kind: MinAvailable, Value: 5}
	max50 = Bound{Kind: MaxUnavailable, Value: 50, Percent: true}
	min50 = Bound{Kind: MinAvailable, Value: 50, Percent: true}
)

// cluster reads "c1 3 ++-g": name, expected count, and one letter a pod: + available,
// - not, g granted, h pending and first, l pending and later, G granted but no longer available, t terminating, x not exported.
// "c1 !reason" is an unread cluster.
func cluster(text string, view []string, bounds ...Bound) Cluster {
	name, rest, _ := strings.Cut(text, " ")
	c := Cluster{Name: name, Bounds: bounds, View: view}
	if reason, ok := strings.CutPrefix(rest, "!"); ok {
		c.Unread = reason
		return c
	}
	var letters string
	if _, err := fmt.Sscanf(rest+" ", "%d %s", &c.Expected, &letters); err != nil && letters == "" && c.Expected == 0 && rest != "0" {
		panic(err)
	}
	for i, l := range letters {
		p := Pod{UID: fmt.Sprintf("%s-%d", name, i), Available: !strings.ContainsRune("-Gtx", l), Terminating: l == 't', Unexported: l == 'x'}
		switch l {
		case 'g', 'G':
			p.Claim = Granted
		case 'h':
			p.Claim = PendingHigher
		case 'l':
			p.Claim = PendingLower
		}
		c.Pods = append(c.Pods, p)
	}
	return c
}

func question(bound Bound, rows ...string) Question {
	q := Question{Budget: "prod/db", Pod: "db-0", UID: "c1-0"}
	var view []string
	for _, r := range rows {
		view = append(view, strings.Fields(r)[0])
	}
	for _, r := range rows {
		q.Clusters = append(q.Clusters, cluster(r, view, bound))
	}
	return q
}

func TestDecideSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		bound Bound
		rows  []string
		want  string
	}{
		{max1, []string{"c1 3 +++", "c2 3 +++"}, "allow SufficientPods: evicting db-0 leaves 5 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 3/3)"},
		{max1, []string{"c1 3 +++", "c2 3 ++-"}, "deny InsufficientPods: evicting db-0 would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 2/3)"},
		{max1, []string{"c1 3 +++", "c2 3 ++g"}, "deny InsufficientPods: evicting db-0 would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight)"},
		{max1, []string{"c1 3 +++", "c2 3 ++h"}, "deny InsufficientPods: evicting db-0 would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 3/3, 1 being decided)"},
		{max1, []string{"c1 3 +++", "c2 3 ++l"}, "wait InsufficientPods: evicting db-0 would leave 5 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 3/3, 1 being decided)"},
		{max1, []string{"c1 3 +++", "c2 3 ++x"}, "deny InsufficientPods: evicting db-0 would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 2/3, 1 not in Cilium's endpoints)"},
		{max1, []string{"c1 3 +++", "c2 !connection refused"}, "deny ClusterNotRead: budget prod/db with maxUnavailable 1 cannot be decided without cluster c2 (connection refused)"},
		{min2, []string{"c1 3 +++", "c2 !connection refused"}, "allow SufficientPods: evicting db-0 leaves 2 of 3 pods available, budget prod/db needs 2 (minAvailable 2; c1 3/3; c2 not read: connection refused)"},
		{min5, []string{"c1 3 +++", "c2 !connection refused"}, "deny ClusterNotRead: evicting db-0 would leave 2 pods provably available, budget prod/db needs 5 (minAvailable 5), and cluster c2 (connection refused) counts as 0"},
		{min5, []string{"c1 3 +++", "c2 !gone", "c3 !lost"}, "deny ClusterNotRead: evicting db-0 would leave 2 pods provably available, budget prod/db needs 5 (minAvailable 5), and clusters c2 (gone), c3 (lost) count as 0"},
		{max1, []string{"c1 3 +++", "c2 !gone", "c3 !lost"}, "deny ClusterNotRead: budget prod/db with maxUnavailable 1 cannot be decided without clusters c2 (gone), c3 (lost)"},
		{min50, []string{"c1 3 +++", "c2 !gone"}, "deny ClusterNotRead: budget prod/db with minAvailable 50% cannot be decided without cluster c2 (gone)"},
		{max50, []string{"c1 3 +++", "c2 4 +---"}, "allow SufficientPods: evicting db-0 leaves 3 of 7 pods available, budget prod/db needs 3 (maxUnavailable 50%; c1 3/3; c2 1/4)"},
		{min50, []string{"c1 3 +++", "c2 4 +---"}, "deny InsufficientPods: evicting db-0 would leave 3 of 7 pods available, budget prod/db needs 4 (minAvailable 50%; c1 3/3; c2 1/4)"},
		// A surge pod does not make up for a pod that another cluster lacks, but pays for one of its own.
		{max1, []string{"c1 3 ++++", "c2 3 ++-"}, "allow SufficientPods: evicting db-0 leaves 5 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 4/3; c2 2/3)"},
		{max1, []string{"c1 3 +g++++", "c2 3 +--"}, "deny InsufficientPods: evicting db-0 would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 5/3, 1 in flight; c2 1/3)"},
		// In a large mesh the clusters in which nothing is missing are only counted.
		{max1, []string{"c1 1 +", "c2 1 +", "c3 1 +", "c4 1 -", "c5 1 +", "c6 1 +", "c7 1 +", "c8 1 +", "c9 1 +"}, "deny InsufficientPods: evicting db-0 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c4 0/1; complete in 8 more)"},
		// Scaled to zero: nothing is expected, nothing is held.
		{max1, []string{"c1 0 +"}, "allow SufficientPods: evicting db-0 leaves 0 of 0 pods available, budget prod/db needs 0 (maxUnavailable 1; c1 1/0)"},
	} {
		d := Decide(question(tt.bound, tt.rows...))
		if got := fmt.Sprintf("%s %s: %s", d.Verdict, d.Reason, d.Sentence); got != tt.want {
			t.Errorf("%v %q\n got %s\nwant %s", tt.bound, tt.rows, got, tt.want)
		}
	}
}

// TestDecideOfNoPodIsTheState: without a pod the question is whether one more may go.
func TestDecideOfNoPodIsTheState(t *testing.T) {
	for _, tt := range []struct {
		bound Bound
		rows  []string
		want  string
	}{
		{max1, []string{"c1 3 +++", "c2 3 +++"}, "1 allowed, 0 in flight, allow SufficientPods: evicting a pod leaves 5 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 3/3)"},
		{max1, []string{"c1 3 +++", "c2 3 ++g"}, "0 allowed, 1 in flight, deny InsufficientPods: evicting a pod would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight)"},
		{max1, []string{"c1 3 +++", "c2 3 ++Gt"}, "0 allowed, 2 in flight, deny InsufficientPods: evicting a pod would leave 4 of 6 pods available, budget prod/db needs 5 (maxUnavailable 1; c1 3/3; c2 2/3, 2 in flight)"},
		{max1, []string{"c1 2 ++t"}, "1 allowed, 1 in flight, allow SufficientPods: evicting a pod leaves 1 of 2 pods available, budget prod/db needs 1 (maxUnavailable 1; c1 2/2, 1 in flight)"},
		{min5, []string{"c1 5 +++++", "c2 !gone"}, "0 allowed, 0 in flight, deny ClusterNotRead: evicting a pod would leave 4 pods provably available, budget prod/db needs 5 (minAvailable 5), and cluster c2 (gone) counts as 0"},
		{max1, []string{"c1 0"}, "0 allowed, 0 in flight, deny InsufficientPods: none of 0 pods is available, budget prod/db needs 0 (maxUnavailable 1; c1 0/0)"},
	} {
		q := question(tt.bound, tt.rows...)
		q.Pod, q.UID = "", ""
		d := Decide(q)
		if got := fmt.Sprintf("%d allowed, %d in flight, %s %s: %s", d.Allowed(), d.InFlight, d.Verdict, d.Reason, d.Sentence); got != tt.want {
			t.Errorf("%v %q\n got %s\nwant %s", tt.bound, tt.rows, got, tt.want)
		}
	}
}

// R4: under a relative bound all clusters must name the same set of clusters (V03).
func TestDecideComparesViews(t *testing.T) {
	q := Question{Budget: "prod/db", Pod: "db-0", UID: "c1-0", Clusters: []Cluster{
		cluster("c1 3 +++", []string{"c1", "c2"}, max1),
		cluster("c2 3 +++", []string{"c1", "c2", "c3"}, max1),
	}}
	d := Decide(q)
	want := "budget prod/db with maxUnavailable 1 cannot be decided while its clusters disagree on who takes part: c2 adds c3"
	if d.Verdict != Deny || d.Reason != ViewsDiffer || d.Sentence != want || d.Allowed() != 0 {
		t.Errorf("got %v %v %q", d.Verdict, d.Reason, d.Sentence)
	}
	// An absolute minAvailable needs no agreement (V01).
	for i := range q.Clusters {
		q.Clusters[i].Bounds = []Bound{min5}
	}
	if d := Decide(q); d.Verdict != Allow {
		t.Errorf("minAvailable: got %v %q", d.Verdict, d.Sentence)
	}
}

func TestDecideWithoutAnyBound(t *testing.T) {
	if d := Decide(Question{Budget: "prod/db", Clusters: []Cluster{{Name: "c1", Expected: 3}}}); d.Verdict != Deny || d.Reason != Unbounded || d.Allowed() != 0 {
		t.Errorf("got %+v", d)
	}
	if d := Decide(Question{}); d.Verdict != Deny {
		t.Errorf("empty question: got %v", d.Verdict)
	}
}

func TestDecideTakesTheStrictestOfAllBounds(t *testing.T) {
	q := question(max50, "c1 4 ++++", "c2 4 ++++")
	q.Clusters[1].Bounds = []Bound{{Kind: MinAvailable, Value: 8}}
	if d := Decide(q); d.Verdict != Deny || d.Desired != 8 {
		t.Errorf("got %v, desired %d: %s", d.Verdict, d.Desired, d.Sentence)
	}
	// The last known bound of an unread cluster binds as well (B03).
	q = question(min2, "c1 4 ++++", "c2 !gone")
	q.Clusters[1].Bounds = []Bound{{Kind: MinAvailable, Value: 4}}
	if d := Decide(q); d.Verdict != Deny || d.Desired != 4 {
		t.Errorf("unread: got %v, desired %d: %s", d.Verdict, d.Desired, d.Sentence)
	}
}

// TestDecideAgainstReference compares with a reference that is as dumb as
// possible: it removes pods one by one from a plain list and counts again.
// It is R4 and R5 in the plainest words.
func TestDecideAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	verdicts := map[Verdict]int{}
	for i := range 200_000 {
		q := randomQuestion(r)
		got, want := Decide(q), reference(q)
		verdicts[got.Verdict]++
		if got.Verdict != want {
			t.Fatalf("question %d: got %v, reference says %v\n%+v\n%s", i, got.Verdict, want, q, got.Sentence)
		}
		if got.Sentence == "" || strings.ContainsAny(got.Sentence, "\n") || strings.HasSuffix(got.Sentence, ".") {
			t.Fatalf("question %d: not one sentence: %q", i, got.Sentence)
		}
		if !slices.IsSortedFunc(slices.Collect(slices.Values(got.Unread)), strings.Compare) {
			t.Fatalf("question %d: unread clusters are not sorted: %v", i, got.Unread)
		}
	}
	for _, v := range []Verdict{Allow, Deny, Wait} {
		if verdicts[v] < 5_000 {
			t.Errorf("only %d questions ended in %v: the comparison proves little", verdicts[v], v)
		}
	}
}

func randomQuestion(r *rand.Rand) Question {
	q := Question{Budget: "n/b", Pod: "p", UID: "0-0"}
	n := 1 + r.IntN(4)
	var view []string
	for c := range n {
		view = append(view, fmt.Sprint(c))
	}
	bound := Bound{Kind: MinAvailable, Value: r.IntN(10)}
	if r.IntN(2) == 0 {
		bound = Bound{Kind: MaxUnavailable, Value: r.IntN(4)}
	}
	if r.IntN(4) == 0 {
		bound.Percent, bound.Value = true, r.IntN(101)
	}
	for c := range n {
		cl := Cluster{Name: fmt.Sprint(c), View: view, Bounds: []Bound{bound}, Expected: r.IntN(5)}
		if r.IntN(20) == 0 {
			cl.View = view[:len(view)-1]
		}
		if r.IntN(15) == 0 {
			cl.Unread = "because"
		}
		if r.IntN(15) == 0 {
			cl.Bounds = append(cl.Bounds, Bound{Kind: MinAvailable, Value: r.IntN(8)})
		}
		for p := range r.IntN(6) {
			cl.Pods = append(cl.Pods, Pod{UID: fmt.Sprintf("%d-%d", c, p), Available: r.IntN(5) > 0, Claim: Claim(max(0, r.IntN(8)-4))})
		}
		q.Clusters = append(q.Clusters, cl)
	}
	return q
}

func reference(q Question) Verdict {
	remaining := func(gone func(Pod) bool) int {
		sum := 0
		for _, c := range q.Clusters {
			if c.Unread != "" {
				continue
			}
			left := 0
			for _, p := range c.Pods {
				if p.UID != q.UID && p.Available && !gone(p) && left < c.Expected {
					left++
				}
			}
			sum += left
		}
		return sum
	}
	expected, blind, differ := 0, false, false
	for _, c := range q.Clusters {
		if c.Unread != "" {
			blind = true
		} else {
			expected += c.Expected
		}
		for _, other := range q.Clusters {
			if !slices.Contains(c.View, other.Name) {
				differ = true
			}
		}
	}
	holds := func(left int) bool {
		for _, c := range q.Clusters {
			for _, b := range c.Bounds {
				hundredths := 100 * b.Value
				if b.Percent {
					hundredths = expected * b.Value
				}
				// Rounded up by counting, to share nothing with the code under test.
				whole := 0
				for whole*100 < hundredths {
					whole++
				}
				if b.Kind == MinAvailable && left < whole || b.Kind == MaxUnavailable && left < expected-whole {
					return false
				}
				if (b.Kind == MaxUnavailable || b.Percent) && (blind || differ) {
					return false
				}
			}
		}
		return true
	}
	if holds(remaining(func(p Pod) bool { return p.Claim != Unclaimed })) {
		return Allow
	}
	if !holds(remaining(func(p Pod) bool { return p.Claim == Granted || p.Claim == PendingHigher })) {
		return Deny
	}
	return Wait
}

func TestParseBoundReadsWhatStringSpells(t *testing.T) {
	for text, parses := range map[string]bool{
		"minAvailable 2": true, "maxUnavailable 0": true, "minAvailable 60%": true, "maxUnavailable 100%": true,
		"": false, "2": false, "least 2": false, "minAvailable": false, "minAvailable %": false, "minAvailable two": false,
		"maxUnavailable -1": false, "minAvailable 2 pods": false, "minAvailable 2147483648": false,
	} {
		bound, ok := ParseBound(text)
		if ok != parses || ok && bound.String() != text {
			t.Errorf("%q: %v, %t", text, bound, ok)
		}
	}
}

func FuzzBound(f *testing.F) {
	f.Add(7, 50, true, true)
	f.Fuzz(func(t *testing.T, expected, value int, percent, maximum bool) {
		expected, value = expected&0xffff, value&0xffff
		b := Bound{Kind: MinAvailable, Value: value, Percent: percent}
		if maximum {
			b.Kind = MaxUnavailable
		}
		if d := b.Desired(expected); d < 0 || maximum && d > expected {
			t.Errorf("%v of %d: desired %d", b, expected, d)
		}
	})
}
