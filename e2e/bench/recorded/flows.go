package recorded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/e2e/bench/stats"
)

// FlowOptions say how decisions are offered while they are shown to Hubble.
type FlowOptions struct {
	// Rate is how many decisions a second are offered, whether those before were answered or not.
	Rate int
	// Time is how long each setting is offered them in each round, and Rounds how often all settings have their turn.
	Time   time.Duration
	Rounds int
}

// Flows is what decisions cost in one setting of the flow pipeline.
type Flows struct {
	Setting string
	// P50, Mean and P99 of a decision: the medians of all rounds.
	P50, Mean, P99 time.Duration
	// P50More and MeanMore are by what share they exceed those of the first setting: the medians of
	// what each round says by itself, whose settings met the machine in the same state.
	P50More, MeanMore float64
	// CPU is the processor time of this process for each decision, whoever used it: the median.
	CPU time.Duration
	// Offered are the decisions of all rounds, Rate those of a second, as they were answered.
	Offered int
	Rate    float64
	// Shown were taken by the pipeline and Lost were not; Followed and Exported
	// reached the observer's reader and the flow log.
	Shown, Lost, Followed, Exported uint64
}

// setting is one of the flow pipeline.
type setting struct {
	name                   string
	on, followed, exported bool
}

var settings = []setting{
	{name: "off"},
	{name: "ring", on: true},
	{name: "ring and a reader who follows", on: true, followed: true},
	{name: "ring and export", on: true, exported: true},
	{name: "ring, reader and export", on: true, followed: true, exported: true},
}

// flows measures all settings, in turn, so that what happens to the machine happens to all of them.
func (s *stores) flows(ctx context.Context, o FlowOptions) (all []Flows, err error) {
	b, err := shop(Small)
	if err != nil {
		return nil, err
	}
	if err := s.fill(ctx, b.records); err != nil {
		return nil, err
	}
	at, err := s.openSite(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	// As a controller sets it with so little to hold.
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	d := newDesk(at, b, "shop", "spent")
	phases := make([][]phase, len(settings))
	// The first round warms up.
	for round := range o.Rounds + 1 {
		s.say("%d decisions a second, round %d of %d", o.Rate, round, o.Rounds)
		for i := range settings {
			// Nobody is always the first, or behind the same one.
			i = (i + round) % len(settings)
			p, err := d.offer(ctx, settings[i], o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", settings[i].name, err)
			}
			if round > 0 {
				phases[i] = append(phases[i], p)
			}
		}
	}
	for i := range settings {
		all = append(all, sumUp(settings[i].name, phases[i], phases[0]))
	}
	return all, nil
}

// gcPercent is cmd/meshpdb-controller's for a small heap.
const gcPercent = 400

// phase is one setting in one round.
type phase struct {
	took     stats.Distribution
	cpu      time.Duration
	duration time.Duration
	outcome
}

// outcome is what became of the flows.
type outcome struct{ shown, lost, followed, exported uint64 }

// sumUp sums up the rounds of a setting, against those of the first.
func sumUp(name string, phases, first []phase) Flows {
	f := Flows{Setting: name}
	var p50, mean, p99, cpu []time.Duration
	var duration time.Duration
	var p50More, meanMore []float64
	for i, p := range phases {
		p50More = append(p50More, excess(p.took.Percentile(50), first[i].took.Percentile(50)))
		meanMore = append(meanMore, excess(p.took.Mean(), first[i].took.Mean()))
		p50, mean, p99 = append(p50, p.took.Percentile(50)), append(mean, p.took.Mean()), append(p99, p.took.Percentile(99))
		cpu = append(cpu, p.cpu/time.Duration(max(1, len(p.took))))
		f.Offered += len(p.took)
		f.Shown, f.Lost, f.Followed, f.Exported = f.Shown+p.shown, f.Lost+p.lost, f.Followed+p.followed, f.Exported+p.exported
		duration += p.duration
	}
	f.P50, f.Mean, f.P99, f.CPU = median(p50), median(mean), median(p99), median(cpu)
	f.P50More, f.MeanMore = median(p50More), median(meanMore)
	f.Rate = float64(f.Offered) / max(duration.Seconds(), 1e-9)
	return f
}

// median is one that was measured: the lower one of two.
func median[T cmp.Ordered](all []T) T {
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// excess is by what share a is above b.
func excess(a, b time.Duration) float64 { return float64(a)/float64(max(b, 1)) - 1 }

// offer offers decisions in one setting.
func (d *desk) offer(ctx context.Context, s setting, o FlowOptions) (p phase, err error) {
	shower, err := d.open(ctx, s)
	if err != nil {
		return phase{}, err
	}
	handler := d.handler(shower)
	runtime.GC()
	before, start := processTime(), time.Now()
	p.took, err = decisions(ctx, handler, d.request, o)
	p.duration, p.cpu = time.Since(start), processTime()-before
	var closing error
	p.outcome, closing = shower.close(ctx)
	return p, errors.Join(err, closing)
}

// callers offer decisions side by side: more than this machine can answer at once would only wait for each other.
func callers() int { return runtime.GOMAXPROCS(0) }

// decisions offers a handler a request at a rate, and times each answer from when it was taken up.
func decisions(ctx context.Context, h admission.Handler, r admission.Request, o FlowOptions) (stats.Distribution, error) {
	n := callers()
	took, failures := make([][]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	start := time.Now()
	for caller := range n {
		took[caller] = make([]time.Duration, 0, int(o.Time.Seconds()*float64(o.Rate))/n+1)
		all.Go(func() {
			failures[caller] = offered(start, o, caller, n, func() error {
				before := time.Now()
				response := h.Handle(ctx, r)
				took[caller] = append(took[caller], time.Since(before))
				if response.Allowed {
					return errors.New("a pod of a spent budget may go")
				}
				return ctx.Err()
			})
		})
	}
	all.Wait()
	return stats.Of(slices.Concat(took...)), errors.Join(failures...)
}

// offered calls once for each moment at which the caller has something to offer, late if need be.
func offered(start time.Time, o FlowOptions, caller, callers int, call func() error) error {
	interval := time.Second / time.Duration(o.Rate)
	for i := caller; time.Duration(i)*interval < o.Time; i += callers {
		if early := time.Duration(i)*interval - time.Since(start); early > 0 {
			time.Sleep(early)
		}
		if err := call(); err != nil {
			return err
		}
	}
	return nil
}

// processTime is what this process has used of all processors.
func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
