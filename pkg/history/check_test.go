package history_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// nine pods in three clusters, of which one may be missing.
const nine = `
	0 c1 states maxUnavailable 1 of 3
	0 c2 states maxUnavailable 1 of 3
	0 c3 states maxUnavailable 1 of 3
	0 c1/a,b,c available
	0 c2/a,b,c available
	0 c3/a,b,c available
`

var verdicts = []struct {
	name, history string
	lag           time.Duration
	want          history.Verdict
}{
	{"nobody asks", nine, 0, history.Held},
	{"one is allowed", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating`, 0, history.Held},
	{"a second one while the first is gone", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		3-4 c2/a allowed
		3.5 c2/a terminating`, 0, history.Violated},
	{"a second one is refused", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		3-4 c2/a refused`, 0, history.Held},
	{"a second one after the first was replaced", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		3 c1/d available
		4-5 c2/a allowed
		4.5 c2/a terminating`, 0, history.Held},
	{"a second one while the first is being replaced", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		2.5-5 c1/d available
		2-3 c2/a allowed
		2.9 c2/a terminating`, 0, history.Held},
	{"a second one ended before the first was replaced", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		2.95-5 c1/d available
		2-3 c2/a allowed
		2.9 c2/a terminating`, 0, history.Violated},
	{"two at the same time", nine + `
		1-5 c1/a allowed
		1-5 c2/a allowed
		3 c1/a terminating
		3 c2/a terminating`, 0, history.Violated},
	{"two at the same time, one of them after a replacement", nine + `
		1-9 c1/a allowed
		1-9 c2/a allowed
		3 c1/a terminating
		5 c1/d available
		7 c2/a terminating`, 0, history.Held},
	{"the same pod twice", nine + `
		1-2 c1/a allowed
		1-3 c1/a allowed
		2-4 c1/a allowed
		3 c1/a terminating`, 0, history.Held},
	{"a pod that ends already", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		5-6 c1/a allowed`, 0, history.Held},
	{"a pod that is not available costs nothing", nine + `
		1 c1/a unavailable
		2-3 c1/a allowed
		2.5 c1/a terminating`, 0, history.Held},
	{"beside a pod that is not available", nine + `
		1 c1/a unavailable
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Violated},
	{"beside a pod that is available again", nine + `
		1 c1/a unavailable
		1.5 c1/a available
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Held},

	{"a death is nobody's fault", nine + `
		1 c1/a lost
		1 c1/b lost
		1 c2/b unavailable`, 0, history.Held},
	{"a death after a permission", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		2 c2/a lost`, 0, history.Held},
	{"a permission after a death", nine + `
		1 c2/a lost
		2-3 c1/a allowed
		2.5 c1/a terminating`, 0, history.Violated},
	{"a permission after a death that nobody could know of", nine + `
		1 c2/a lost
		2-3 c1/a allowed
		2.5 c1/a terminating`, time.Second, history.Held},
	{"a permission after a death that must be known", nine + `
		1 c2/a lost
		2.5-3 c1/a allowed
		2.7 c1/a terminating`, time.Second, history.Violated},
	{"a death is no replacement", nine + `
		1 c1/a lost
		2 c1/d available
		3-4 c1/b allowed
		3.5 c1/b terminating
		5-6 c1/d allowed
		5.5 c1/d terminating`, 0, history.Violated},

	{"a lost answer that had no effect", nine + `
		1-2 c1/a unknown
		3-4 c2/a allowed
		3.5 c2/a terminating`, 0, history.Held},
	{"a lost answer that had one", nine + `
		1-2 c1/a unknown
		2.5 c1/a terminating
		3-4 c2/a allowed
		3.5 c2/a terminating`, 0, history.Violated},
	{"a lost answer whose effect may have come later, when it was right", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		1-2 c2/a unknown
		4 c1/d available
		5 c2/a terminating`, 0, history.Held},
	{"a lost answer whose effect came too early", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		2-3 c2/a unknown
		3.5 c2/a terminating
		4 c1/d available`, 0, history.Violated},
	{"never answered", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		2- c2/a asked
		3 c2/a terminating`, 0, history.Violated},
	{"allowed for the second time what a lost answer had allowed before a death", nine + `
		1-2 c1/a unknown
		3 c2/a lost
		4-5 c1/a allowed
		4.5 c1/a terminating`, 0, history.Held},
	{"a failure is no lost answer", nine + `
		1-2 c1/a failed
		3 c2/a lost
		4-5 c1/a allowed
		4.5 c1/a terminating`, 0, history.Violated},

	{"a permission that leads to nothing keeps its pod from counting", nine + `
		1-2 c1/a allowed
		200-201 c2/a allowed
		200.5 c2/a terminating`, 0, history.Violated},
	{"until it lapses", nine + `
		1-2 c1/a allowed
		303-304 c2/a allowed
		303.5 c2/a terminating`, 0, history.Held},
	{"asked again, it lapses later", nine + `
		1-2 c1/a allowed
		100-101 c1/a allowed
		303-304 c2/a allowed
		303.5 c2/a terminating`, 0, history.Violated},
	{"lapsed, then used", nine + `
		1-2 c1/a allowed
		400 c1/a terminating`, 0, history.Undecided},
	{"lapsed, then allowed anew", nine + `
		1-2 c1/a allowed
		400-401 c1/a allowed
		400.5 c1/a terminating`, 0, history.Held},
	{"lapsed, then allowed anew beside another", nine + `
		1-2 c1/a allowed
		390 c2/a lost
		400-401 c1/a allowed
		400.5 c1/a terminating`, 0, history.Violated},

	{"nobody asked", nine + `
		1 c1/a terminating`, 0, history.Undecided},
	{"nobody asked for one too many", nine + `
		1 c1/z unavailable
		2 c1/z terminating`, 0, history.Held},
	{"nobody asked, and it was back", nine + `
		1 c1/z unavailable
		2 c1/z available
		3 c1/z terminating`, 0, history.Undecided},
	{"asked too late", nine + `
		1 c1/a terminating
		2-3 c1/a allowed`, 0, history.Undecided},
	{"a wrong permission counts for more than a gap", nine + `
		1 c1/a terminating
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Violated},

	{"the budget grows", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		3 c1 states maxUnavailable 2 of 3
		3 c2 states maxUnavailable 2 of 3
		3 c3 states maxUnavailable 2 of 3
		4-5 c2/a allowed
		4.5 c2/a terminating`, 0, history.Held},
	{"the budget grows in two of three clusters", nine + `
		1-2 c1/a allowed
		1.5 c1/a terminating
		3 c1 states maxUnavailable 2 of 3
		3 c2 states maxUnavailable 2 of 3
		4-5 c2/a allowed
		4.5 c2/a terminating`, 0, history.Violated},
	{"the budget shrinks", nine + `
		1 c1 states maxUnavailable 0 of 3
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Violated},
	{"the budget shrinks meanwhile", nine + `
		2-3 c1 states maxUnavailable 0 of 3
		1-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Held},
	{"the budget has shrunk too recently to know", nine + `
		1 c1 states maxUnavailable 0 of 3
		2-3 c2/a allowed
		2.5 c2/a terminating`, time.Second, history.Held},
	{"more pods are expected than are there", nine + `
		1 c1 states maxUnavailable 1 of 4
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Violated},
	{"what was so at the beginning needs no lag", `
		0 c1 states maxUnavailable 0 of 3
		0 c1/a,b,c available
		1-2 c1/a allowed
		1.5 c1/a terminating`, time.Minute, history.Violated},

	{"a name that is used again is another pod", nine + `
		1-2 c1/a allowed name=db-0
		1.5 c1/a terminating name=db-0
		3 c1/a2 available name=db-0
		4-5 c1/a2 allowed name=db-0
		4.5 c1/a2 terminating name=db-0
		6-7 c2/a allowed
		6.5 c2/a terminating`, 0, history.Violated},

	{"a cluster leaves with its pods and its bound", `
		0 c1 states maxUnavailable 0 of 3
		0 c2 states maxUnavailable 1 of 3
		0 c1/a,b,c available
		0 c2/a,b,c available
		1 c1 leaves
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Held},
	{"a cluster that left is not counted", `
		0 c1 states minAvailable 3 of 3
		0 c2 states minAvailable 3 of 3
		0 c1/a,b,c available
		0 c2/a,b,c available
		1 c1 leaves
		2-3 c2/a allowed
		2.5 c2/a terminating`, 0, history.Violated},
	{"in a cluster that left everything is allowed", nine + `
		1 c1 leaves
		2-3 c1/a,b,c allowed
		3 c1/a,b,c terminating`, 0, history.Held},
	{"a cluster joins with a stricter bound", `
		0 c1 states maxUnavailable 1 of 3
		0 c1/a,b,c available
		0 c2/a,b,c available
		1 c2 states maxUnavailable 0 of 3
		2-3 c1/a allowed
		2.5 c1/a terminating`, 0, history.Violated},

	{"percentages of the mesh round up", `
		0 c1 states maxUnavailable 10% of 3
		0 c2 states minAvailable 50% of 4
		0 c1/a,b,c available
		0 c2/a,b,c,d available
		1-2 c1/a allowed
		1.5 c1/a terminating`, 0, history.Held},
	{"and hold no more than that", `
		0 c1 states maxUnavailable 10% of 3
		0 c2 states minAvailable 50% of 4
		0 c1/a,b,c available
		0 c2/a,b,c,d available
		1-2 c1/a allowed
		1.5 c1/a terminating
		3-4 c1/b allowed
		3.5 c1/b terminating`, 0, history.Violated},

	{"its own change lies in the permission", nine + `
		0.5 c2/a lost
		1-3 c1/a unavailable
		2-4 c1/a allowed
		3.5 c1/a terminating`, 0, history.Held},
	{"its own change lies after it", nine + `
		0.5 c2/a lost
		2-3 c1/a allowed
		3.1-3.4 c1/a unavailable
		3.5 c1/a terminating`, 0, history.Violated},
	{"it cannot have been unavailable for itself and available for another", `
		0 c1 states minAvailable 2 of 3
		0 c1/a,b available
		1-5 c1/c available
		2-3 c1/a allowed
		2.5 c1/a terminating
		2-4 c1/c allowed
		4 c1/c terminating`, 0, history.Violated},
	{"that one alone is right", `
		0 c1 states minAvailable 2 of 3
		0 c1/a,b available
		1-5 c1/c available
		2-3 c1/a allowed
		2.5 c1/a terminating`, 0, history.Held},
	{"and so is the other", `
		0 c1 states minAvailable 2 of 3
		0 c1/a,b available
		1-5 c1/c available
		2-4 c1/c allowed
		4 c1/c terminating`, 0, history.Held},
}

func TestVerdicts(t *testing.T) {
	for _, tt := range verdicts {
		t.Run(tt.name, func(t *testing.T) {
			report, err := history.Check(events(t, tt.history), history.Options{Lag: tt.lag})
			if err != nil {
				t.Fatal(err)
			}
			if report.Verdict() != tt.want {
				t.Errorf("got %s, want %s\n%s", report.Verdict(), tt.want, report)
			}
			for _, b := range report.Budgets {
				if (b.Verdict == history.Violated) != (len(b.Violations) > 0) {
					t.Errorf("%s, but %d violations are told", b.Verdict, len(b.Violations))
				}
			}
		})
	}
}

// TestNativeBudgetsAreConvicted: a PodDisruptionBudget in each cluster allows one
// pod in each, as in the native half of the demo; over the mesh three are missing.
func TestNativeBudgetsAreConvicted(t *testing.T) {
	h := events(t, nine+`
		1-1.1    c1/a allowed name=db-a
		1.05-1.2 c1/a terminating
		1-1.2    c2/a allowed name=db-b
		1.1-1.3  c2/a terminating
		1.2-1.3  c3/a allowed name=db-c
		1.25-1.3 c3/a terminating
		5 c1/d available
		6 c2/d available
		7 c3/d available`)
	report, err := history.Check(h, history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v := report.Budgets[0].Violations[0]
	if v.Counted != 7 || v.Desired != 8 || v.Expected != 9 {
		t.Errorf("got %+v", v)
	}
	for _, words := range []string{"violated", "disruption of db-b of c2 was allowed between 1s and 1.2s: 7 of 9 pods would have counted without it, and the budget wanted 8", "between 1s and 1.1s: disruption of db-a of c1 was allowed"} {
		if !strings.Contains(report.String(), words) {
			t.Errorf("the report does not say %q:\n%s", words, report)
		}
	}
	var page bytes.Buffer
	if drawn, err := report.Visualize(&page); err != nil || !drawn || !strings.Contains(page.String(), "db-b of c2 was allowed") {
		t.Errorf("got %v, %v and %d bytes of picture", drawn, err, page.Len())
	}
}

// TestStepsAcrossQuietPoints: what made a permission wrong may lie before the
// quiet point at which its search began.
func TestStepsAcrossQuietPoints(t *testing.T) {
	report, err := history.Check(events(t, nine+`
		1-2 c1/b allowed
		1.5 c1/b terminating
		3   c1/e available
		10-11 c1/a allowed
		10.5 c1/a terminating
		20 c2/c lost
		30-31 c2/a allowed
		30.5 c2/a terminating`), history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := report.Budgets[0].Violations[0].String()
	want := `disruption of c2a of c2 was allowed between 30s and 30.5s: 6 of 9 pods would have counted without it, and the budget wanted 8
  between 10s and 10.5s: disruption of c1a of c1 was allowed
  at 20s: c2c of c2 ceased to be available`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestBudgetsAreJudgedApart: the pods of one budget are no help to another.
func TestBudgetsAreJudgedApart(t *testing.T) {
	right := events(t, nine+"1-2 c1/a allowed\n1.5 c1/a terminating")
	wrong := events(t, nine+"1-2 c1/a,b allowed\n1.5 c1/a,b terminating")
	for i := range wrong.Events {
		e := wrong.Events[i]
		if e.Budget != "" {
			e.Budget = "prod/other"
		}
		if e.Request != 0 {
			e.Request += 100
		}
		right.Events = append(right.Events, e)
	}
	report, err := history.Check(right, history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(report.Budgets[0].Budget, report.Budgets[0].Verdict, report.Budgets[1].Budget, report.Budgets[1].Verdict, report.Verdict())
	if want := "prod/db held prod/other violated violated"; strings.Join(strings.Fields(got), "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got %s", got)
	}
}

// TestUnfinishedIsUndecided: a search that hits its limit says so. Each permission may lie on either side
// of its own pod's change, and one too many of them is allowed.
func TestUnfinishedIsUndecided(t *testing.T) {
	var text strings.Builder
	text.WriteString("0 c1 states minAvailable 20 of 60\n")
	for i := range 60 {
		fmt.Fprintf(&text, "0 c1/p%d available\n1-9 c1/p%d allowed\n", i, i)
		if i < 30 {
			fmt.Fprintf(&text, "8-9.5 c1/p%d unavailable\n", i)
		}
	}
	for i := range 30 {
		fmt.Fprintf(&text, "10-11 c1/p%d lost\n", i)
	}
	report, err := history.Check(events(t, text.String()), history.Options{Limit: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if report.Verdict() != history.Undecided || !strings.Contains(report.String(), "was not finished in 50ms") {
		t.Errorf("got %s", report)
	}
}

func TestNothingIsUndecided(t *testing.T) {
	report, err := history.Check(history.History{}, history.Options{})
	if err != nil || report.Verdict() != history.Undecided {
		t.Errorf("got %s, %v", report, err)
	}
}

// TestManyAtOnce: forty callers at the same time, one of whom should not have
// got it: a search alone would try 2^40 sets of them.
func TestManyAtOnce(t *testing.T) {
	for free, want := range map[int]history.Verdict{40: history.Held, 39: history.Violated} {
		var text strings.Builder
		fmt.Fprintf(&text, "0 c1 states maxUnavailable %d of 60\n", free)
		for i := range 60 {
			fmt.Fprintf(&text, "0 c1/p%d available\n", i)
		}
		for i := range 40 {
			fmt.Fprintf(&text, "1-9 c1/p%d allowed\n10 c1/p%d terminating\n", i, i)
		}
		report, err := history.Check(events(t, text.String()), history.Options{Limit: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if report.Verdict() != want {
			t.Errorf("%d free: got %s, want %s", free, report, want)
		}
	}
}

func TestContradictionsAreErrors(t *testing.T) {
	asked := history.Event{Kind: history.Asked, Budget: "prod/db", Cluster: "c1", Pod: "a", Request: 1, Interval: history.At(5)}
	answered := history.Event{Kind: history.Answered, Request: 1, Answer: history.Refused, Interval: history.At(6)}
	early := answered
	early.Interval = history.At(4)
	elsewhere := asked
	elsewhere.Cluster, elsewhere.Request = "c2", 2
	for want, events := range map[string][]history.Event{
		"event 1: request 1 is answered, but was not asked":  {answered},
		"event 3: request 1 is answered, but":                {asked, answered, answered},
		"event 2: request 1 is asked twice":                  {asked, asked},
		"event 3: request 1 is asked twice":                  {asked, answered, asked},
		"event 2: request 1 is answered before it was asked": {asked, early},
		"event 2: pod a is of cluster c1 and of c2":          {asked, elsewhere},
		"event 1: kind \"\" is not known":                    {{}},
		"event 1: available names no pod":                    {{Kind: history.Available, Budget: "b", Cluster: "c"}},
		"event 1: available names no budget or no cluster":   {{Kind: history.Available, Pod: "a"}},
		"event 1: earliest 2ns is after latest 1ns":          {{Interval: history.Interval{Earliest: 2, Latest: 1}}},
		"event 1: bound must be one of":                      {{Kind: history.Budget, Budget: "b", Cluster: "c", Statement: &history.Statement{}}},
		"event 1: bound \"minAvailable -1\" is neither":      {{Kind: history.Budget, Budget: "b", Cluster: "c", Statement: &history.Statement{Bound: history.Bound{MinAvailable: "-1"}}}},
		"event 1: bound \"maxUnavailable x%\" is neither":    {{Kind: history.Budget, Budget: "b", Cluster: "c", Statement: &history.Statement{Bound: history.Bound{MaxUnavailable: "x%"}}}},
		"event 1: -1 pods are expected":                      {{Kind: history.Budget, Budget: "b", Cluster: "c", Statement: &history.Statement{Expected: -1}}},
		"event 1: answer \"yes\" is not known":               {{Kind: history.Answered, Request: 1, Answer: "yes"}},
		"event 1: question has no request number":            {{Kind: history.Asked, Budget: "b", Cluster: "c", Pod: "a"}},
	} {
		_, err := history.Check(history.History{Events: events}, history.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
