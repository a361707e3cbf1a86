package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meshpdb/meshpdb/e2e/bench/stats"
	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// beat is the least time between two polite evictions: what the one before has
// left to tidy must not be measured with the next.
const beat = time.Second

// rehearsals are evictions that are not measured: the first decisions of a
// controller also meet connections and caches that are cold.
const rehearsals = 4

// Calm is what one polite caller got, who asks in one cluster for one pod after
// the other and waits until it is replaced.
type Calm struct {
	// Seen is the time until permission by the caller's clock.
	Seen stats.Distribution
	// Refused is how many were refused all the same.
	Refused int
	// Write is one put to the own kvstore and Read one linearizable read of a
	// peer's, on the paths that decisions take: no protocol that shows its claim
	// to the others and then looks at theirs can be faster than both.
	Write, Read stats.Distribution
	Answers     Answers
	Steps       Steps
	// Spent are the answers while the budget had nothing to give, asked one by one.
	Spent Answers
}

// Floor is one write and one read at the given percentile.
func (c Calm) Floor(q float64) time.Duration { return c.Write.Percentile(q) + c.Read.Percentile(q) }

// polite is the caller who takes turns with nobody.
type polite struct {
	workload *scenario.Workload
	witness  *scenario.Witness
	floor    *floor
}

// calm lets a polite caller evict in the first cluster.
func (m *mesh) calm(ctx context.Context, w *scenario.Workload) (Calm, error) {
	witness, err := w.Watch(ctx)
	if err != nil {
		return Calm{}, err
	}
	f, err := newFloor(ctx, m.sandbox.Clusters[0], m.sandbox.Clusters[1])
	if err != nil {
		_, stopped := witness.Stop()
		return Calm{}, errors.Join(err, stopped)
	}
	caller := &polite{workload: w, witness: witness, floor: f}
	var account *account
	var c Calm
	if _, err = caller.evict(ctx, rehearsals); err == nil {
		account, err = m.open(ctx, w.Namespace)
	}
	if err == nil {
		c, err = caller.evict(ctx, m.options.Polite)
	}
	_, stopped := witness.Stop()
	if err := errors.Join(err, stopped, f.close()); err != nil {
		return Calm{}, err
	}
	if c.Refused > m.options.Polite/10 {
		return Calm{}, fmt.Errorf("evict politely: %d of %d were refused although budget was free", c.Refused, m.options.Polite)
	}
	if c.Answers, c.Steps, err = account.close(ctx); err != nil {
		return Calm{}, err
	}
	c.Spent, err = m.spent(ctx, w)
	return c, err
}

// spentFactor is how many refusals are measured for each permission: they take
// next to no time, so that p99 takes many to tell.
const spentFactor = 10

// spent takes the budget away, asks in vain, and gives it back.
func (m *mesh) spent(ctx context.Context, w *scenario.Workload) (Answers, error) {
	if err := errors.Join(w.SetMaxUnavailable(ctx, 0), w.AwaitAllowed(ctx, 0)); err != nil {
		return Answers{}, err
	}
	account, err := m.open(ctx, w.Namespace)
	if err != nil {
		return Answers{}, err
	}
	c := w.Clusters[0]
	pods, err := w.Available(ctx, c)
	if err != nil || len(pods) == 0 {
		return Answers{}, errors.Join(err, fmt.Errorf("find a pod in %s: %d are available", c.Name, len(pods)))
	}
	for i := range spentFactor * m.options.Polite {
		if err := c.Evict(ctx, w.Namespace, pods[i%len(pods)].Name); !apierrors.IsTooManyRequests(err) {
			return Answers{}, fmt.Errorf("evict in vain: got %v, want a refusal", err)
		}
	}
	answers, _, err := account.close(ctx)
	if err != nil {
		return Answers{}, err
	}
	return answers, errors.Join(w.SetMaxUnavailable(ctx, Budget), w.AwaitAllowed(ctx, Budget))
}

// evict asks for n pods of the first cluster, one after the other.
func (p *polite) evict(ctx context.Context, n int) (Calm, error) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var took, writes, reads []time.Duration
	refused := 0
	for i := range n {
		if err := p.awaitAll(ctx); err != nil {
			return Calm{}, err
		}
		select {
		case <-ctx.Done():
			return Calm{}, context.Cause(ctx)
		case <-tick.C:
		}
		write, read, err := p.floor.sample(ctx)
		if err != nil {
			return Calm{}, err
		}
		writes, reads = append(writes, write), append(reads, read)
		c := p.workload.Clusters[0]
		pods, err := p.workload.Available(ctx, c)
		if err != nil || len(pods) == 0 {
			return Calm{}, errors.Join(err, fmt.Errorf("find a pod in %s: %d are available", c.Name, len(pods)))
		}
		start := time.Now()
		switch err := c.Evict(ctx, p.workload.Namespace, pods[i%len(pods)].Name); {
		case err == nil:
			took = append(took, time.Since(start))
		case apierrors.IsTooManyRequests(err):
			refused++
		default:
			return Calm{}, fmt.Errorf("evict politely: %w", err)
		}
	}
	return Calm{Seen: stats.Of(took), Refused: refused, Write: stats.Of(writes), Read: stats.Of(reads)}, nil
}

// awaitAll waits until all pods of the workload are available.
func (p *polite) awaitAll(ctx context.Context) error {
	const patience = time.Minute
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		available := 0
		for _, n := range p.witness.Now() {
			available += n
		}
		if available >= p.workload.Expected() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("wait for pods: %d of %d are available after %s", available, p.workload.Expected(), patience)
		case <-tick.C:
		}
	}
}

// floor times the least that a decision has to do, by clients like the
// controllers' own.
type floor struct {
	own, peer *clientv3.Client
	key       string // to read
	value     string // to write, about as long as a claim
}

// floorKey is outside of what Cilium and meshpdb keep; remoteKey is one that peers may read.
const (
	floorKey  = "bench/floor"
	remoteKey = "cilium/state/meshpdb/v1/"
)

func newFloor(ctx context.Context, own, peer *sandbox.Cluster) (*floor, error) {
	writer, err := own.Instances[0].AdminClient(ctx)
	if err != nil {
		return nil, err
	}
	reader, err := own.PeerClient(ctx, peer.Name)
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	f := &floor{own: writer, peer: reader, key: remoteKey + peer.Name + "/incarnation", value: strings.Repeat("x", 256)}
	// The first one also waits for the connections.
	if _, _, err := f.sample(ctx); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *floor) sample(ctx context.Context) (write, read time.Duration, err error) {
	start := time.Now()
	if _, err := f.own.Put(ctx, floorKey, f.value); err != nil {
		return 0, 0, fmt.Errorf("time a write: %w", err)
	}
	write = time.Since(start)
	start = time.Now()
	if _, err := f.peer.Get(ctx, f.key); err != nil {
		return 0, 0, fmt.Errorf("time a read: %w", err)
	}
	return write, time.Since(start), nil
}

func (f *floor) close() error { return errors.Join(f.own.Close(), f.peer.Close()) }
