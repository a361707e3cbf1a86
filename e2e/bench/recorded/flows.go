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
	// Time is how long each setting is offered them in each round, in several turns, and
	// Rounds how often everything begins anew.
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
		r, err := d.round(ctx, o, round)
		if err != nil {
			return nil, err
		}
		for i := range settings {
			if round > 0 {
				phases[i] = append(phases[i], r[i])
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

const (
	// turn is how long decisions are offered in one setting before the next one has its turn: a machine
	// shared with others is not the same machine a second later.
	turn = 200 * time.Millisecond
	// rest is what a setting has after its turn to work off what it put aside, at its own expense and not at the next one's.
	rest = 100 * time.Millisecond
)

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

// station is a setting that decisions are offered in.
type station struct {
	shower  *shower
	handler admission.Handler
	phase   phase
	took    []time.Duration
}

// round has all settings take turns until each has had its time.
func (d *desk) round(ctx context.Context, o FlowOptions, n int) ([]phase, error) {
	stations, err := d.stations(ctx)
	if err == nil {
		err = d.takeTurns(ctx, stations, o, n)
	}
	phases := make([]phase, len(stations))
	for i, s := range stations {
		var closing error
		if s.phase.outcome, closing = s.shower.close(ctx); closing != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", settings[i].name, closing))
		}
		s.phase.took = stats.Of(s.took)
		phases[i] = s.phase
	}
	return phases, err
}

// stations opens all settings, or those before the one that cannot be opened.
func (d *desk) stations(ctx context.Context) ([]*station, error) {
	var all []*station
	for _, s := range settings {
		shower, err := d.open(ctx, s)
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.name, err)
		}
		all = append(all, &station{shower: shower, handler: d.handler(shower)})
	}
	return all, nil
}

func (d *desk) takeTurns(ctx context.Context, stations []*station, o FlowOptions, round int) error {
	runtime.GC()
	for t := 0; time.Duration(t)*turn < o.Time; t++ {
		for i := range stations {
			// Nobody is always the first.
			next := (i + round + t) % len(stations)
			if err := d.offer(ctx, stations[next], o.Rate, min(turn, o.Time)); err != nil {
				return fmt.Errorf("%s: %w", settings[next].name, err)
			}
		}
	}
	return nil
}

// offer offers decisions to a station for one turn.
func (d *desk) offer(ctx context.Context, s *station, rate int, length time.Duration) error {
	before, start := processTime(), time.Now()
	took, err := decisions(ctx, s.handler, d.request, rate, length)
	s.phase.duration += time.Since(start)
	s.took = append(s.took, took...)
	select {
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	case <-time.After(rest):
	}
	s.phase.cpu += processTime() - before
	return err
}

// callers offer decisions side by side, and leave a core to whatever else the process does: whether that
// stands in the way of decisions is asked here, and what it takes of the processor is told beside it.
func callers() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// decisions offers a handler a request at a rate, and times each answer from when it was taken up.
func decisions(ctx context.Context, h admission.Handler, r admission.Request, rate int, length time.Duration) ([]time.Duration, error) {
	n := callers()
	took, failures := make([][]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	start := time.Now()
	for caller := range n {
		took[caller] = make([]time.Duration, 0, int(length.Seconds()*float64(rate))/n+1)
		all.Go(func() {
			failures[caller] = offered(start, rate, length, caller, n, func() error {
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
	return slices.Concat(took...), errors.Join(failures...)
}

// offered calls once for each moment at which the caller has something to offer, late if need be.
func offered(start time.Time, rate int, length time.Duration, caller, callers int, call func() error) error {
	interval := time.Second / time.Duration(rate)
	for i := caller; time.Duration(i)*interval < length; i += callers {
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
