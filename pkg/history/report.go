package history

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is what Check found.
type Report struct {
	// Start of the history, that all times in the report are counted from.
	Start time.Time
	// Budgets by their names.
	Budgets []Result
}

// Result is the judgement on one budget.
type Result struct {
	Budget  string
	Verdict Verdict
	// Allowed, Refused, Failed and Unknown count the requests by their answers.
	Allowed, Refused, Failed, Unknown int
	// Violations are the first permissions that were wrong.
	Violations []Violation
	// Findings are the other reasons for the verdict.
	Findings []string
	// Idle is the longest stretch in which budget was free, somebody asked, and
	// nobody was granted; the zero Span if there was none.
	Idle Span
	// Rounds are the requests at the same time in a quiet mesh.
	Rounds []Round

	wrong int
}

// find adds a reason for a verdict; the worst one counts.
func (r *Result) find(v Verdict, why string) {
	r.Verdict = max(r.Verdict, v)
	r.Findings = append(r.Findings, why)
}

// Verdict is the worst of all budgets; Undecided if there is none to judge.
func (r Report) Verdict() Verdict {
	if len(r.Budgets) == 0 {
		return Undecided
	}
	worst := Held
	for _, b := range r.Budgets {
		worst = max(worst, b.Verdict)
	}
	return worst
}

// String says it in words, in several lines.
func (r Report) String() string {
	if len(r.Budgets) == 0 {
		return "undecided: the history is empty"
	}
	var b strings.Builder
	for i, result := range r.Budgets {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(result.String())
	}
	return b.String()
}

// String says it in words, in several lines.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "budget %s: %s; %d allowed, %d refused, %d failed, %d unanswered", r.Budget, r.Verdict, r.Allowed, r.Refused, r.Failed, r.Unknown)
	if r.Idle != (Span{}) {
		fmt.Fprintf(&b, "; idle for %s at most", r.Idle)
	}
	if n := len(r.Rounds); n > 0 {
		short := 0
		for _, round := range r.Rounds {
			if round.Granted < round.Owed() {
				short++
			}
		}
		fmt.Fprintf(&b, "; %d of %d quiet rounds granted fewer than they could", short, n)
	}
	for _, f := range r.Findings {
		b.WriteString("\n" + f)
	}
	for _, v := range r.Violations {
		b.WriteString("\n" + v.String())
	}
	if more := r.wrong - len(r.Violations); more > 0 {
		fmt.Fprintf(&b, "\nand %d more", more)
	}
	return b.String()
}

// Visualize draws the first violation of all as a page of HTML. It returns false, and
// writes nothing, if there is none.
func (r Report) Visualize(w io.Writer) (bool, error) {
	for _, b := range r.Budgets {
		for _, v := range b.Violations {
			return true, v.Visualize(w)
		}
	}
	return false, nil
}

// describe says when, to a tenth of a millisecond.
func describe(at Interval) string {
	const tenth = 100 * time.Microsecond
	if at.Earliest == at.Latest {
		return "at " + at.Latest.Round(tenth).String()
	}
	return fmt.Sprintf("between %s and %s", at.Earliest.Round(tenth), at.Latest.Round(tenth))
}
