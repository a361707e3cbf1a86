package live

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// The histograms that tell where the time of decisions goes.
const (
	phases   = "meshpdb_decision_phase_duration_seconds"
	perWrite = "meshpdb_decisions_per_write"
	perRound = "meshpdb_decisions_per_round"
)

// Steps is where the time of decisions went: those that a claim was made for.
type Steps struct {
	// Decisions is their number.
	Decisions int
	// Steps in the order of the protocol.
	Steps []Step
	// PerWrite is how many moves on claims shared one durable write, PerRound how
	// many decisions one round of reads, on average; 0 if there was none.
	PerWrite, PerRound float64
}

// Step is one step of the protocol.
type Step struct {
	Name string
	// Times that it was done in a decision, and the time it took of each, on average.
	Times float64
	Mean  time.Duration
}

// scrape is the sums and counts of all controllers' histograms, by metric and
// label value.
type scrape map[string]total

type total struct {
	sum   float64
	count uint64
}

func (m *mesh) scrape(ctx context.Context) (scrape, error) {
	all := scrape{}
	for _, c := range m.controllers() {
		if err := all.get(ctx, c.MetricsURL); err != nil {
			return nil, fmt.Errorf("read metrics of %s: %w", c.Name, err)
		}
	}
	return all, nil
}

func (s scrape) get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %s", response.Status)
	}
	return s.add(response.Body)
}

// add takes in the histograms of one controller.
func (s scrape) add(text io.Reader) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return err
	}
	for _, name := range []string{phases, perWrite, perRound} {
		family := families[name]
		if family.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		for _, metric := range family.GetMetric() {
			key := name
			if name == phases {
				for _, label := range metric.GetLabel() {
					key += " " + label.GetValue()
				}
			}
			t := s[key]
			t.sum += metric.GetHistogram().GetSampleSum()
			t.count += metric.GetHistogram().GetSampleCount()
			s[key] = t
		}
	}
	return nil
}

// stepsBetween is what happened between two scrapes.
func stepsBetween(before, after scrape) Steps {
	since := func(key string) total {
		return total{sum: after[key].sum - before[key].sum, count: after[key].count - before[key].count}
	}
	var s Steps
	// Every decision begins with its claim.
	s.Decisions = int(since(phases + " " + claim.AppendClaim.String()).count)
	for _, name := range names(after) {
		t := since(phases + " " + name)
		if t.count == 0 || s.Decisions == 0 {
			continue
		}
		s.Steps = append(s.Steps, Step{
			Name: name, Times: float64(t.count) / float64(s.Decisions),
			Mean: time.Duration(t.sum / float64(s.Decisions) * float64(time.Second)).Round(time.Microsecond),
		})
	}
	s.PerWrite, s.PerRound = since(perWrite).mean(), since(perRound).mean()
	return s
}

// names returns the steps that were seen, in the order of the protocol, and
// then what else there is.
func names(s scrape) []string {
	var found []string
	for key := range s {
		if name, ok := strings.CutPrefix(key, phases+" "); ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	var ordered []string
	for step := claim.AppendClaim; step < claim.Answer; step++ {
		if slices.Contains(found, step.String()) {
			ordered = append(ordered, step.String())
		}
	}
	for _, name := range found {
		if !slices.Contains(ordered, name) {
			ordered = append(ordered, name)
		}
	}
	return ordered
}

func (t total) mean() float64 {
	if t.count == 0 {
		return 0
	}
	return t.sum / float64(t.count)
}
