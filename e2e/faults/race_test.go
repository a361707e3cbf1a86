package faults

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// racer is a workload whose pods are fought for.
type racer struct {
	*scenario.Workload
	spec v1alpha1.MeshPodDisruptionBudgetSpec
	// callers in each cluster.
	callers int
	// allowed is how many pods may be missing.
	allowed int

	witness *scenario.Witness
	tally   *scenario.Tally
}

func racers() []racer {
	percent := intstr.FromString("60%")
	workload := func(name string) *scenario.Workload {
		return &scenario.Workload{Clusters: mesh.clusters, Namespace: name, Name: "db", Replicas: replicas}
	}
	return []racer{
		{Workload: workload("race-one"), spec: maxUnavailable(1), callers: 2, allowed: 1},
		{Workload: workload("race-absolute"), spec: minAvailable(4), callers: 1, allowed: 5},
		{Workload: workload("race-percent"), spec: v1alpha1.MeshPodDisruptionBudgetSpec{MinAvailable: &percent}, callers: 1, allowed: 3},
	}
}

// TestRandomFaults lets eager callers loose in all clusters under three budgets
// while faults of all kinds are inflicted and healed at random, two at a time.
// At the end two judges who know nothing of meshpdb must agree that no budget
// was broken: the witness, who saw the pods, and the history of all questions
// and answers. When everything is healed, every cluster must grant again.
func TestRandomFaults(t *testing.T) {
	settle(t)
	seed := *raceSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	all := racers()
	r := &race{begun: time.Now(), inflicted: map[string]int{}}
	for i, w := range all {
		*all[i].Workload = *own(t, w.Namespace, w.spec)
		witness, err := w.Watch(context.WithoutCancel(t.Context()))
		must(t, err)
		all[i].witness, all[i].tally = witness, scenario.NewTally()
	}
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(*raceFor, cancel)
	defer timer.Stop()
	defer cancel()
	var running sync.WaitGroup
	for _, w := range all {
		for _, c := range mesh.clusters {
			for range w.callers {
				running.Go(func() { w.call(ctx, c) })
			}
		}
	}
	for i, kinds := range [][]fault{processFaults(), networkFaults()} {
		running.Go(func() { r.inject(ctx, t, rand.New(rand.NewPCG(seed, uint64(i))), kinds) })
	}
	running.Wait()
	r.judge(t, all, seed)
	// Nothing may be left stuck.
	for _, w := range all {
		healing(t, exporterLimit, w.Workload, mesh.clusters, func() error { return nil })
	}
}

// bound is the budget as a history tells it.
func (w racer) bound() history.Bound {
	if w.spec.MinAvailable != nil {
		return history.Bound{MinAvailable: w.spec.MinAvailable.String()}
	}
	return history.Bound{MaxUnavailable: w.spec.MaxUnavailable.String()}
}

// race is what was done to the mesh in one.
type race struct {
	begun time.Time

	mu        sync.Mutex
	inflicted map[string]int
}

// callPause lies between two questions of one caller.
const callPause = 50 * time.Millisecond

// call evicts one pod after the other in a cluster until ctx ends.
func (w racer) call(ctx context.Context, c *scenario.Cluster) {
	for pause(ctx, callPause) {
		pods, err := w.Available(ctx, c)
		if err != nil || len(pods) == 0 {
			continue
		}
		pod := pods[rand.IntN(len(pods))]
		// Not cut short by the end of the race: every answer counts.
		askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*answerTime)
		a := askFor(askCtx, c, pod)
		cancel()
		w.tally.Record(c.Name, pod.Name, a.took, a.err)
	}
}

// inject inflicts one fault after the other, each for a random time.
func (r *race) inject(ctx context.Context, t *testing.T, random *rand.Rand, kinds []fault) {
	between := func(low, high time.Duration) time.Duration { return low + rand.N(high-low) }
	for pause(ctx, between(time.Second, 6*time.Second)) {
		f := kinds[random.IntN(len(kinds))]
		n := 1 + random.IntN(len(mesh.clusters))
		other := 1 + (n+random.IntN(len(mesh.clusters)-1))%len(mesh.clusters)
		lasts := between(500*time.Millisecond, f.most)
		r.mu.Lock()
		r.inflicted[f.name]++
		r.mu.Unlock()
		t.Logf("%8.1fs c%d, c%d: %s for %s", time.Since(r.begun).Seconds(), n, other, f.name, lasts.Round(time.Millisecond))
		heal, err := f.inflict(ctx, n, other)
		if err != nil {
			t.Errorf("inflict %s: %v", f.name, err)
		}
		pause(ctx, lasts)
		// What was broken is mended even when the race is over.
		if err := heal(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("heal %s: %v", f.name, err)
		}
	}
}

// exporterLimit is when Cilium exports again what has become of the pods of a cluster whose API server was down: its
// reflectors come back within a back-off of 30 s and as much of jitter (client-go's tools/cache/reflector.go). Until then
// such pods do not count.
const exporterLimit = 70 * time.Second

// searchTime is how long the search for an order may take between two quiet points.
const searchTime = 20 * time.Second

// judge has both judges speak.
func (r *race) judge(t *testing.T, all []racer, seed uint64) {
	t.Helper()
	var s summary
	for _, w := range all {
		// All evictions have been answered, but not all pods have been seen to go.
		if err := w.AwaitReady(t.Context()); err != nil {
			t.Errorf("%s: %v", w.Namespace, err) // what was seen until now is judged all the same
		}
		testimony, err := w.witness.Stop()
		if err != nil {
			t.Error(err)
		}
		if testimony.WorstUnavailable > w.allowed {
			t.Errorf("%s: the witness saw %d pods missing at %s, %d may be", w.Namespace, testimony.WorstUnavailable,
				testimony.WorstAt.Format(time.TimeOnly), w.allowed)
		}
		h, err := w.witness.History(w.bound(), w.tally)
		must(t, err)
		report, err := history.Check(h, history.Options{Lag: scenario.Lag, Limit: searchTime})
		must(t, err)
		t.Logf("%s", report)
		t.Logf("while it lay idle:\n%s", r.saidWithin(w.tally, report.Budgets[0].Idle))
		if report.Verdict() != history.Held {
			t.Errorf("seed %d: the history is %s", seed, report.Verdict())
			keep(t, h)
		}
		s.add(w, testimony, report)
	}
	if s.granted == 0 {
		t.Error("nothing was granted: the race proves nothing")
	}
	if s.slowest > 2*answerTime {
		t.Errorf("a permission or refusal took %s", s.slowest)
	}
	mesh.rows.race = s.table(r, seed)
	t.Log("\n" + mesh.rows.race)
}

// saidWithin counts what callers were told within a span of the race, the most frequent first, without what tells one pod or moment from another.
func (r *race) saidWithin(tally *scenario.Tally, span history.Span) string {
	said := map[string]int{}
	for _, q := range tally.Requests() {
		if at := q.Answered.Sub(r.begun); at < span.From || at > span.To {
			continue
		}
		said[fmt.Sprintf("%s %s %s", q.Cluster, q.Answer, passing.ReplaceAllString(q.Sentence, ""))]++
	}
	words := slices.SortedFunc(maps.Keys(said), func(a, b string) int { return cmp.Or(said[b]-said[a], strings.Compare(a, b)) })
	var b strings.Builder
	for _, w := range words[:min(len(words), 25)] {
		fmt.Fprintf(&b, "%6d %s\n", said[w], w)
	}
	return b.String()
}

// passing are the names of pods and the ages in a sentence.
var passing = regexp.MustCompile(`-[a-z0-9]{8,10}-[a-z0-9]{5}\b|, by a view at most \w+ old`)

// keep writes a history beside the logs.
func keep(t *testing.T, h history.History) {
	t.Helper()
	of, _, _ := strings.Cut(h.Events[0].Budget, "/")
	file, err := os.Create(filepath.Join(mesh.Dir, of+".jsonl"))
	must(t, err)
	defer file.Close()
	must(t, history.Write(file, h))
	t.Logf("the history is in %s", file.Name())
}

// summary of a race over all budgets.
type summary struct {
	granted, refused, lost, violations int
	// slowest permission or refusal.
	slowest time.Duration
	worst   []string
	verdict history.Verdict
}

func (s *summary) add(w racer, testimony scenario.Testimony, report history.Report) {
	for _, q := range w.tally.Requests() {
		switch q.Answer {
		case history.Allowed:
			s.granted++
		case history.Refused:
			s.refused++
		case history.Unknown:
			s.lost++
			continue
		}
		s.slowest = max(s.slowest, q.Took())
	}
	for _, b := range report.Budgets {
		s.violations += len(b.Violations)
	}
	s.verdict = max(s.verdict, report.Verdict())
	s.worst = append(s.worst, fmt.Sprintf("%s: %d of %d that may be", w.bound(), testimony.WorstUnavailable, w.allowed))
}

func (s *summary) table(r *race, seed uint64) string {
	faults, kinds := 0, make([]string, 0, len(r.inflicted))
	for name, n := range r.inflicted {
		faults += n
		kinds = append(kinds, fmt.Sprintf("%d %s", n, name))
	}
	slices.SortFunc(kinds, func(a, b string) int { return strings.Compare(a[strings.Index(a, " "):], b[strings.Index(b, " "):]) })
	rows := [][2]string{
		{"race", fmt.Sprintf("%s, seed %d", *raceFor, seed)},
		{"faults", fmt.Sprintf("%d: %s", faults, strings.Join(kinds, ", "))},
		{"decisions", fmt.Sprint(s.granted + s.refused)},
		{"grants", fmt.Sprint(s.granted)},
		{"answers lost to faults", fmt.Sprint(s.lost)},
		{"slowest permission or refusal", seconds(s.slowest)},
		{"pods missing at the worst moment", strings.Join(s.worst, "; ")},
		{"violations", fmt.Sprintf("%d; the histories: %s", s.violations, s.verdict)},
	}
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], cell(row[1]))
		if i == 0 {
			b.WriteString("|---|---|\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
