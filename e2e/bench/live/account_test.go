package live

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAnswersFromLogs(t *testing.T) {
	const log = `{"level":"info","msg":"DisruptionAllowed","pod":"bench/db-0","path":"eviction","took":"31.25ms","dryRun":false,"sentence":"fine"}
I1122 something that is not JSON
{"level":"info","msg":"DisruptionRefused","pod":"bench/db-1","path":"eviction","took":"120µs","cached":true}
{"level":"info","msg":"DisruptionRefused","pod":"bench/db-1","path":"eviction","took":"44ms","cached":false}
{"level":"info","msg":"DisruptionRefused","pod":"bench/db-1","path":"eviction","took":"9ms","cached":true}
{"level":"info","msg":"DisruptionRefused","pod":"bench/db-1","path":"eviction","took":"1ms","cached":false}
{"level":"info","msg":"DisruptionAllowed","pod":"bench/db-1","path":"eviction","took":"7ms","dryRun":true}
{"level":"info","msg":"DisruptionAllowed","pod":"bench/db-1","path":"system","took":"0s"}
{"level":"info","msg":"DisruptionAllowed","pod":"bench-2/db-1","path":"eviction","took":"5ms"}
{"level":"info","msg":"leader elected"}
{"level":"info","msg":"DisruptionAll`
	var r reading
	if err := r.lines(strings.NewReader(log), "bench"); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(r.answers())
	if want := "{[31.25ms] [120µs 9ms] [1ms 44ms]}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	broken := `{"msg":"DisruptionAllowed","pod":"bench/db-0","path":"eviction","took":"soon"}`
	if err := r.lines(strings.NewReader(broken), "bench"); err == nil || !strings.Contains(err.Error(), "parse answer on bench/db-0") {
		t.Errorf("got %v", err)
	}
}

// metrics of one controller after n decisions with one read round of 20 ms each.
func metrics(n int, more string) string {
	return strings.ReplaceAll(`# TYPE meshpdb_decision_phase_duration_seconds histogram
meshpdb_decision_phase_duration_seconds_bucket{phase="ReadClusters",le="+Inf"} N
meshpdb_decision_phase_duration_seconds_sum{phase="ReadClusters"} Ne-2
meshpdb_decision_phase_duration_seconds_count{phase="ReadClusters"} N
meshpdb_decision_phase_duration_seconds_bucket{phase="AppendClaim",le="+Inf"} N
meshpdb_decision_phase_duration_seconds_sum{phase="AppendClaim"} Ne-3
meshpdb_decision_phase_duration_seconds_count{phase="AppendClaim"} N
# TYPE go_goroutines gauge
go_goroutines 12
`, "N", fmt.Sprint(n)) + more
}

func TestStepsBetweenScrapes(t *testing.T) {
	scraped := func(texts ...string) scrape {
		s := scrape{}
		for _, text := range texts {
			if err := s.add(strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	const later = `# TYPE meshpdb_decision_phase_duration_seconds histogram
meshpdb_decision_phase_duration_seconds_bucket{phase="Later",le="+Inf"} 1
meshpdb_decision_phase_duration_seconds_sum{phase="Later"} 0.5
meshpdb_decision_phase_duration_seconds_count{phase="Later"} 1
# TYPE meshpdb_decisions_per_write histogram
meshpdb_decisions_per_write_bucket{le="+Inf"} 4
meshpdb_decisions_per_write_sum 10
meshpdb_decisions_per_write_count 4
`
	before, after := scraped(metrics(10, ""), metrics(20, "")), scraped(metrics(20, ""), metrics(30, ""), later)
	got := stepsBetween(before, after)
	want := Steps{Decisions: 20, PerWrite: 2.5, Steps: []Step{
		{"AppendClaim", 1, time.Millisecond}, {"ReadClusters", 1, 10 * time.Millisecond}, {"Later", 0.05, 25 * time.Millisecond},
	}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := stepsBetween(after, after); got.Decisions != 0 || len(got.Steps) != 0 || got.PerWrite != 0 {
		t.Errorf("between the same: %v", got)
	}
}
