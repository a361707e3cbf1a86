package recorded

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/stats"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Result is what was measured.
type Result struct {
	Meshes    []Mesh
	Endpoints []Endpoints
	Budgets   []Budgets
	Flows     []Flows
}

// Mesh is the cost of a number of clusters.
type Mesh struct {
	Clusters int
	// Core is the arithmetic alone, Refusal a refusal from the cached view,
	// Preview one round of fresh reads, Grant a whole decision but for the
	// Kubernetes API's part.
	Core, Refusal, Preview, Grant stats.Distribution
	// Standing is what the views and clients of all clusters hold, and Ready
	// how long it took until all of them stood.
	Standing Usage
	Ready    time.Duration
}

// Endpoints is the cost of endpoints in a budget's namespace.
type Endpoints struct {
	Endpoints int
	// Snapshot is one fresh read of one cluster, and Bytes what its etcd sent for it.
	Snapshot stats.Distribution
	Bytes    float64
}

// Budgets is the cost of budgets in the views.
type Budgets struct {
	Budgets          int
	Refusal, Preview stats.Distribution
	Standing         Usage
	Ready            time.Duration
}

// Small is the number of clusters that everything but their number is measured on.
const Small = 3

// quick is how many more samples are taken of what needs no network.
const quick = 100

// podsPerBudget in each cluster.
const podsPerBudget = 3

// Measure starts etcds, measures and stops them.
func Measure(ctx context.Context, o Options) (Result, error) {
	s, err := startStores(ctx, o)
	if err != nil {
		return Result{}, err
	}
	result, err := s.measure(ctx)
	return result, errors.Join(err, s.stop())
}

func (s *stores) measure(ctx context.Context) (Result, error) {
	// What the first site finds cold must not be counted as the cost of its clusters.
	if err := s.warm(ctx); err != nil {
		return Result{}, fmt.Errorf("warm up: %w", err)
	}
	var result Result
	for _, n := range s.options.Meshes {
		m, err := s.mesh(ctx, n)
		if err != nil {
			return Result{}, fmt.Errorf("measure %d clusters: %w", n, err)
		}
		result.Meshes = append(result.Meshes, m)
	}
	for _, n := range s.options.Endpoints {
		e, err := s.endpoints(ctx, n)
		if err != nil {
			return Result{}, fmt.Errorf("measure %d endpoints: %w", n, err)
		}
		result.Endpoints = append(result.Endpoints, e)
	}
	for _, n := range s.options.Budgets {
		b, err := s.budgets(ctx, n)
		if err != nil {
			return Result{}, fmt.Errorf("measure %d budgets: %w", n, err)
		}
		result.Budgets = append(result.Budgets, b)
	}
	if s.options.Flows.Rounds > 0 {
		f, err := s.flows(ctx, s.options.Flows)
		if err != nil {
			return Result{}, fmt.Errorf("measure flows: %w", err)
		}
		result.Flows = f
	}
	return result, nil
}

// warm opens a site and lets it decide once.
func (s *stores) warm(ctx context.Context) error {
	b, err := shop(Small)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, b.records); err != nil {
		return err
	}
	at, err := s.openSite(ctx, b)
	if err != nil {
		return err
	}
	_, err = at.grant(ctx, b.request("shop", "free"))
	return errors.Join(err, at.close())
}

// unsampled is how often something is done before it is measured.
const unsampled = 3

// repeat takes samples.
func repeat(n int, sample func() (time.Duration, error)) (stats.Distribution, error) {
	var took []time.Duration
	for i := range unsampled + n {
		t, err := sample()
		if err != nil {
			return nil, err
		}
		if i >= unsampled {
			took = append(took, t)
		}
	}
	return stats.Of(took), nil
}

// shop is a namespace with a budget that is free and one that is spent.
func shop(n int) (*book, error) {
	b, err := newBook(n)
	if err != nil {
		return nil, err
	}
	return b, errors.Join(
		b.budget(budgetOf{namespace: "shop", name: "free", maxUnavailable: "1", pods: podsPerBudget}),
		b.budget(budgetOf{namespace: "shop", name: "spent", maxUnavailable: "1", pods: podsPerBudget, down: 1}),
	)
}

// mesh measures n clusters.
func (s *stores) mesh(ctx context.Context, n int) (m Mesh, err error) {
	s.say("%d clusters", n)
	b, err := shop(n)
	if err != nil {
		return Mesh{}, err
	}
	if err := s.fill(ctx, b.records); err != nil {
		return Mesh{}, err
	}
	at, standing, err := s.openCounted(ctx, b)
	if err != nil {
		return Mesh{}, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	m = Mesh{Clusters: n, Standing: standing, Ready: at.took}
	free, spent := b.request("shop", "free"), b.request("shop", "spent")
	var failures [4]error
	m.Core, failures[0] = repeat(quick*s.options.Samples, at.core(b))
	m.Refusal, failures[1] = repeat(quick*s.options.Samples, func() (time.Duration, error) { return at.refuse(spent) })
	m.Preview, failures[2] = repeat(s.options.Samples, func() (time.Duration, error) { return at.preview(ctx, free) })
	m.Grant, failures[3] = repeat(s.options.Samples, func() (time.Duration, error) { return at.grant(ctx, free) })
	return m, errors.Join(failures[:]...)
}

// openCounted is openSite with what the site holds.
func (s *stores) openCounted(ctx context.Context, b *book) (*site, Usage, error) {
	before, err := usage()
	if err != nil {
		return nil, Usage{}, err
	}
	at, err := s.openSite(ctx, b)
	if err != nil {
		return nil, Usage{}, err
	}
	after, err := usage()
	if err != nil {
		return nil, Usage{}, errors.Join(err, at.close())
	}
	// Not to be freed between the two.
	runtime.KeepAlive(b)
	return at, after.Less(before), nil
}

// core samples the arithmetic alone, on what the standing views show.
func (at *site) core(b *book) func() (time.Duration, error) {
	r := b.request("shop", "free")
	var snapshots []claim.Snapshot
	for _, name := range b.view {
		snapshots = append(snapshots, clusters{at.mesh}.Cached(name, decideQuery(r)))
	}
	question := claim.Question(r.Budgets[0], r.Pod, r.UID, snapshots, claim.Standing(snapshots))
	return func() (time.Duration, error) {
		start := time.Now()
		d := budget.Decide(question)
		took := time.Since(start)
		if d.Verdict != budget.Allow {
			return 0, fmt.Errorf("decide %s: %s", r.Pod, d.Sentence)
		}
		return took, nil
	}
}

// endpoints measures n other endpoints in the namespace of the budget.
func (s *stores) endpoints(ctx context.Context, n int) (e Endpoints, err error) {
	s.say("%d other endpoints in the namespace", n)
	b, err := shop(Small)
	if err != nil {
		return Endpoints{}, err
	}
	const peer = 1
	if err := b.endpoints(peer, "shop", n); err != nil {
		return Endpoints{}, err
	}
	if err := s.fill(ctx, b.records); err != nil {
		return Endpoints{}, err
	}
	at, err := s.openSite(ctx, b)
	if err != nil {
		return Endpoints{}, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	read := clusters{at.mesh}
	ask := decideQuery(b.request("shop", "free"))
	sample := func() (time.Duration, error) {
		start := time.Now()
		snapshot := read.Snapshot(ctx, nameOf(peer), ask)
		took := time.Since(start)
		if snapshot.Invalid != "" || len(snapshot.Budgets) != 1 {
			return 0, fmt.Errorf("read %s: %s %+v", nameOf(peer), snapshot.Invalid, snapshot.Budgets)
		}
		return took, nil
	}
	meter, err := s.meter(storeOf(peer))
	if err != nil {
		return Endpoints{}, err
	}
	before, err := meter.sent(ctx)
	if err != nil {
		return Endpoints{}, err
	}
	e.Endpoints = n
	if e.Snapshot, err = repeat(s.options.Samples, sample); err != nil {
		return Endpoints{}, err
	}
	after, err := meter.sent(ctx)
	e.Bytes = (after - before) / float64(unsampled+s.options.Samples)
	return e, err
}

// budgetsPerNamespace keeps what one snapshot reads the same, however many budgets there are.
const budgetsPerNamespace = 10

// budgets measures n budgets in every view.
func (s *stores) budgets(ctx context.Context, n int) (m Budgets, err error) {
	s.say("%d budgets", n)
	b, err := newBook(Small)
	if err != nil {
		return Budgets{}, err
	}
	for i := range n {
		o := budgetOf{namespace: fmt.Sprintf("team-%d", i/budgetsPerNamespace), name: fmt.Sprintf("db-%d", i), maxUnavailable: "1", pods: 1, down: i % 2}
		if err := b.budget(o); err != nil {
			return Budgets{}, err
		}
	}
	if err := s.fill(ctx, b.records); err != nil {
		return Budgets{}, err
	}
	at, standing, err := s.openCounted(ctx, b)
	if err != nil {
		return Budgets{}, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	m = Budgets{Budgets: n, Standing: standing, Ready: at.took}
	// Every second budget is spent; neighbours in the middle of all of them.
	middle := n / 2 / budgetsPerNamespace * budgetsPerNamespace
	namespace := fmt.Sprintf("team-%d", middle/budgetsPerNamespace)
	free := b.request(namespace, fmt.Sprintf("db-%d", middle))
	spent := b.request(namespace, fmt.Sprintf("db-%d", middle+1))
	if m.Refusal, err = repeat(quick*s.options.Samples, func() (time.Duration, error) { return at.refuse(spent) }); err != nil {
		return Budgets{}, err
	}
	m.Preview, err = repeat(s.options.Samples, func() (time.Duration, error) { return at.preview(ctx, free) })
	return m, err
}
