package history_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// levels writes a history from a line such as "0=9 2=10 | 0-1+ 3-4- 5-6?": from second 0
// on there are 9 pods, from second 2 on 10; a request from 0 to 1 was granted, one
// from 3 to 4 refused, one from 5 to 6 not answered, with ! it failed. The requests are on pods that end never.
func levels(t *testing.T, text string) history.History {
	t.Helper()
	left, right, _ := strings.Cut(text, "|")
	var b strings.Builder
	b.WriteString("0 c1 states minAvailable 9 of 10\n")
	standing := 0
	for _, field := range strings.Fields(left) {
		at, count, _ := strings.Cut(field, "=")
		var n int
		if _, err := fmt.Sscan(count, &n); err != nil {
			t.Fatal(err)
		}
		for ; standing < n; standing++ {
			fmt.Fprintf(&b, "%s c1/p%d available\n", at, standing)
		}
		for ; standing > n; standing-- {
			fmt.Fprintf(&b, "%s c1/p%d unavailable\n", at, standing-1)
		}
	}
	verdicts := map[string]history.Answer{"+": history.Allowed, "-": history.Refused, "?": history.Unknown, "!": history.Failed}
	for i, field := range strings.Fields(right) {
		last := len(field) - 1
		fmt.Fprintf(&b, "%s c1/q%d %s\n", field[:last], i, verdicts[field[last:]])
	}
	return events(t, b.String())
}

func TestIdle(t *testing.T) {
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
		{"not free at the grant's answer any more", "0=10 2=9 5=10 | 0-3+ 3-4- 4-5- 5-6- 6-7-", "0-2"},
		{"a pause below a second is demand", "0=10 | 0-0.5- 1.4-2- 2.9-3-", "0-3"},
		{"a longer pause is not", "0=10 | 0-0.5- 3-4- 6-7-", "3-5"},
		{"the last answer ends it", "0=10 9=9 | 0-1- 1-2-", "0-2"},
		{"begins with the first question", "0=10 | 3-4-  4-5-", "3-5"},
		{"unsorted requests", "0=10 | 4-5- 0-1- 3-4- 1-2- 2-3-", "0-5"},
		{"many levels", "0=9 1=10 1.2=11 1.4=12 2=11 3=9 3.5=10 | 0-1- 1-2- 2-3- 3-4-", "1-3"},
	} {
		report, err := history.Check(levels(t, tt.history), history.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if s := report.Budgets[0].Idle; s != (history.Span{}) {
			got = fmt.Sprintf("%g-%g", s.From.Seconds(), s.To.Seconds())
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestIdleIsAViolationIfAskedFor(t *testing.T) {
	h := levels(t, "0=10 | 0-1- 1-2- 2-3+")
	for limit, want := range map[time.Duration]history.Verdict{0: history.Held, 3 * time.Second: history.Held, 2 * time.Second: history.Violated} {
		report, err := history.Check(h, history.Options{Idle: limit})
		if err != nil {
			t.Fatal(err)
		}
		if report.Verdict() != want {
			t.Errorf("limit %s: got %s", limit, report)
		}
	}
}

func TestRounds(t *testing.T) {
	const two = `
		0 c1 states maxUnavailable 2 of 6
		0 c1/a,b,c,d,e,f available
	`
	for _, tt := range []struct{ name, history, want string }{
		{"three for two", two + `
			1-5 c1/a allowed
			2-6 c1/b allowed
			2 c1/a,b terminating
			3-7 c1/c refused`, "[3 for 2: 2]"},
		{"one for two", two + "1-2 c1/a allowed", "[1 for 2: 1]"},
		{"one slot was left unused", two + `
			1-5 c1/a allowed
			2 c1/a terminating
			2-5 c1/b refused`, "[2 for 2: 1]"},
		{"the same pod twice", two + `
			1-5 c1/a allowed
			2-5 c1/a allowed
			3 c1/a terminating`, "[1 for 2: 1]"},
		{"not at the same time", two + `
			1-3 c1/a refused
			2-5 c1/b refused
			4-6 c1/b refused`, "[]"},
		{"not quiet", two + `
			1-3 c1/a refused
			2 c1/d unavailable
			2-5 c1/b refused`, "[]"},
		{"the budget changes", two + `
			1-3 c1/a refused
			2 c1 states maxUnavailable 1 of 6`, "[]"},
		{"a pod that is not there", two + `
			0.5 c1/a unavailable
			1-3 c1/a refused`, "[]"},
		{"an answer was lost", two + `
			1-3 c1/a refused
			2-3 c1/b unknown`, "[]"},
		{"a permission that has not led to anything yet", two + `
			1-2 c1/a allowed
			3-4 c1/b refused`, "[1 for 2: 1]"},
		{"nothing free", two + `
			0.5 c1/e,f lost
			1-3 c1/a refused`, "[]"},
	} {
		report, err := history.Check(events(t, tt.history), history.Options{})
		if err != nil {
			t.Fatal(err)
		}
		all := []string{}
		for _, r := range report.Budgets[0].Rounds {
			all = append(all, fmt.Sprintf("%d for %d: %d", r.Asked, r.Free, r.Granted))
		}
		if got := fmt.Sprint(all); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
