package mesh

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

const (
	// probeInterval is how often, at most, a standing view checks that the store
	// it follows still is the one it listed: independent etcds hide behind one
	// address, and each is empty after its restart.
	probeInterval = time.Second
	// probePerPeer makes it less often in a large mesh, where every replica of
	// every cluster probes every other cluster: with 255 of them, every 5 s.
	probePerPeer = 20 * time.Millisecond
	// silentProbes is how many probes in a row a watch may leave unanswered before the view is
	// listed anew: the store answers, and what has become of the watch is not known.
	silentProbes = 5
	// probeTimeout is when a store counts as unreachable.
	probeTimeout = 2 * time.Second
	// listTimeout bounds one page of the list that begins a standing view.
	listTimeout = 5 * time.Second
	retryMin    = 100 * time.Millisecond
	retryMax    = 500 * time.Millisecond
)

// Member is one cluster of the mesh, as seen through one client of its kvstore.
type Member struct {
	cluster string
	// instance of the own kvstore; empty for a peer.
	instance string
	client   *clientv3.Client
	// reset makes the client connect anew.
	reset func()
	// explain turns an error into the one that a person can act on.
	explain func(error) error
	changed func(namespace string)
	// peers is how many clusters are probed, this one included.
	peers func() int

	mu    sync.Mutex
	view  *records
	err   error
	since time.Time
	seen  time.Time
	// viewed is when the view was in step with the store last, as far as the store
	// has said so: by an event, or by its word that there is none.
	viewed  time.Time
	latency time.Duration
	// sessions is how many have begun.
	sessions int
}

func newMember(cluster string, client *clientv3.Client, explain func(error) error, changed func(string)) *Member {
	return &Member{
		cluster: cluster, client: client, reset: func() {}, explain: explain, changed: changed, peers: func() int { return 1 },
		view: newRecords(cluster), err: errors.New("not read yet"), since: time.Now(),
	}
}

// Snapshot reads the store once, linearizably and in one transaction (rule
// R3). It never fails: what could not be read is an invalid snapshot that
// says why, with the bounds that were known last.
func (m *Member) Snapshot(ctx context.Context, q Query) claim.Snapshot {
	values, err := m.read(ctx, q)
	if err != nil {
		s := m.Cached(q)
		s.Invalid, s.Waiters, s.Seen = m.explain(err).Error(), nil, time.Time{}
		return s
	}
	r := newRecords(m.cluster)
	for key, value := range values {
		if strings.HasPrefix(key, wire.ClusterPrefix(m.cluster)) {
			r.apply(key, value)
		}
	}
	e, err := decodeExports(m.cluster, q.Namespace, values)
	if err != nil {
		// It is invalid; no address is looked for.
		e = newExports(m.cluster, q.Namespace, nil)
	}
	s := r.snapshot(q, e.serving)
	if err != nil && s.Invalid == "" {
		s.Invalid = err.Error()
	}
	return s
}

func (m *Member) read(ctx context.Context, q Query) (map[string][]byte, error) {
	prefix := func(p string) clientv3.Op {
		return clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithLimit(maxKeys))
	}
	c := m.cluster
	ops := []clientv3.Op{
		clientv3.OpGet(wire.Key{Kind: wire.KindIncarnation, Cluster: c}.String()),
		clientv3.OpGet(wire.Key{Kind: wire.KindMarker, Cluster: c}.String()),
		prefix(wire.ClaimsPrefix(c, q.Namespace)),
		clientv3.OpGet(clusterConfigKey(c)),
		clientv3.OpGet(servicesSyncedKey(c)),
		clientv3.OpGet(slicesSyncedKey(c)),
		prefix(slicesPrefix(c, q.Namespace)),
	}
	for _, b := range q.Budgets {
		ops = append(ops,
			clientv3.OpGet(wire.Key{Kind: wire.KindBudget, Cluster: c, Namespace: q.Namespace, Budget: b.Name}.String()),
			prefix(wire.PodsPrefix(c, q.Namespace, b.Name)),
			clientv3.OpGet(serviceKey(c, q.Namespace, b.Service)),
		)
	}
	response, err := m.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	values := map[string][]byte{}
	for _, part := range response.Responses {
		r := part.GetResponseRange()
		if r.More {
			return nil, fmt.Errorf("its kvstore holds more than %d keys of one kind", maxKeys)
		}
		for _, kv := range r.Kvs {
			values[string(kv.Key)] = kv.Value
		}
	}
	return values, nil
}

// exports reports whether the cluster exports the Service at all.
func (m *Member) exports(ctx context.Context, namespace, service string) (bool, error) {
	m.mu.Lock()
	standing := m.err
	m.mu.Unlock()
	if standing != nil {
		// It would cost a time-out to learn it again.
		return false, standing
	}
	values, err := m.read(ctx, Query{Namespace: namespace, Budgets: []BudgetRef{{Service: service}}})
	if err != nil {
		return false, m.explain(err)
	}
	// A store that was just emptied exports nothing yet.
	if _, err := decodeExports(m.cluster, namespace, values); err != nil {
		return false, err
	}
	if _, ok := values[serviceKey(m.cluster, namespace, service)]; ok {
		return true, nil
	}
	addresses, err := newExports(m.cluster, namespace, values).serving(service)
	return len(addresses) > 0, err
}

// Cached returns the standing view. Never grant from it.
func (m *Member) Cached(q Query) claim.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.view.snapshot(q, nil)
	s.Waiters, s.Seen = m.view.waiting(q), m.viewed
	if m.err != nil {
		s.Invalid = m.err.Error()
	}
	return s
}

// failing reports whether the store could not be read last time.
func (m *Member) failing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

// budget reports whether the standing view holds the budget, and whether the
// cluster was ever read.
func (m *Member) budget(name string) (held, read bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.view.budgets[name]
	// Between an incarnation and its marker the records are not complete.
	complete := m.view.incarnation == m.view.marker
	return ok && !b.Tombstone, !m.seen.IsZero() && complete
}

// follow keeps the standing view in step until ctx ends. It relists whenever
// it may have missed something: an error, a compaction, another store behind
// the same address.
func (m *Member) follow(ctx context.Context) {
	wait := retryMin
	for ctx.Err() == nil {
		start := time.Now()
		err := m.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if timedOut(err) {
			// The connection may lead nowhere although nobody has said so.
			m.reset()
		}
		if !errors.Is(err, errRelist) {
			m.fail(err)
		} else if time.Since(start) > retryMax {
			continue
		}
		pause := wait
		if overload := new(overloadError); errors.As(err, &overload) {
			pause = overloadWait
			m.drop()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		wait = min(2*wait, retryMax)
		if time.Since(start) > 20*retryMax {
			wait = retryMin
		}
	}
}

// errRelist ends a session that must begin anew although the store answers.
var errRelist = errors.New("the store may be another one")

func (m *Member) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(m.ownStream(ctx))
	defer cancel()
	all, header, err := m.list(ctx)
	if err != nil {
		return err
	}
	m.replace(all)
	life := m.incarnation()
	revision := header.Revision
	// Watch returns no sooner than the store answers: the probe must not wait for it.
	var events clientv3.WatchChan
	watching := make(chan clientv3.WatchChan, 1)
	go func() {
		// From the list's own revision on: etcd tells of no progress before a watch's first one
		// (server/storage/mvcc, progressIfSync). What it repeats changes nothing.
		watching <- m.client.Watch(ctx, wire.ClusterPrefix(m.cluster), clientv3.WithPrefix(), clientv3.WithRev(revision))
	}()
	probe := time.NewTimer(m.probeInterval())
	defer probe.Stop()
	probed := make(chan probeResult, 1)
	probing, suspect := false, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case events = <-watching:
		case event, ok := <-events:
			switch {
			case !ok:
				return errRelist
			case event.Err() != nil:
				// Compacted (Cilium compacts hourly) or cancelled by the server.
				return errors.Join(errRelist, event.Err())
			}
			if err := m.update(event); err != nil {
				return err
			}
			// A new life may have begun in an emptied store. If that was filled past
			// our revision before the watch had reconnected, the watch goes on, and
			// tells nothing of what has vanished.
			if m.incarnation() != life {
				return errRelist
			}
		case <-probe.C:
			probe.Reset(m.probeInterval())
			if probing {
				continue
			}
			probing = true
			watched := events != nil
			go func() { probed <- m.probe(ctx, header.MemberId, revision, watched) }()
		case result := <-probed:
			probing = false
			if result.err != nil {
				return result.err
			}
			// The watch may be a moment apart from one probe, not from two.
			mismatch := result.incarnation != m.incarnation()
			if mismatch && suspect == result.incarnation {
				return errRelist
			}
			if suspect = ""; mismatch {
				suspect = result.incarnation
			}
			if m.silent(time.Now()) {
				return errRelist
			}
		}
	}
}

// ownStream has the watch of a new session travel alone. etcd tells of no progress to a stream
// of which any watch is not in step, and one that an earlier session has left may
// wait for a revision that the store, emptied since, will not reach for a long time.
func (m *Member) ownStream(ctx context.Context) context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions++
	return streamOf(ctx, m.sessions)
}

// streamOf returns the context by which etcd's client tells the stream of a session from others.
func streamOf(ctx context.Context, session int) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "meshpdb-session", strconv.Itoa(session))
}

// silent reports whether the watch has said nothing for so long that it should not be waited for.
func (m *Member) silent(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.viewed) > silentProbes*m.probeInterval()
}

func (m *Member) probeInterval() time.Duration {
	return max(probeInterval, time.Duration(m.peers())*probePerPeer)
}

type probeResult struct {
	incarnation string
	err         error
}

// probe asks the store who it is. A watch alone would not notice that its
// connection now leads to another etcd, or to the same one emptied.
func (m *Member) probe(ctx context.Context, member uint64, revision int64, watched bool) probeResult {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	start := time.Now()
	response, err := m.client.Txn(ctx).Then(clientv3.OpGet(wire.Key{Kind: wire.KindIncarnation, Cluster: m.cluster}.String())).Commit()
	if err != nil {
		return probeResult{err: err}
	}
	if response.Header.MemberId != member || response.Header.Revision < revision {
		return probeResult{err: errRelist}
	}
	m.mu.Lock()
	m.seen, m.latency = time.Now(), time.Since(start)
	m.mu.Unlock()
	// The watch is asked how far it has come; it answers among its events. What the
	// probe has read says nothing of that.
	if watched {
		if err := m.client.RequestProgress(ctx); err != nil {
			return probeResult{err: err}
		}
	}
	result := probeResult{incarnation: "none"}
	if kvs := response.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		var v wire.Incarnation
		if wire.Unmarshal(kvs[0].Value, &v) == nil {
			result.incarnation = v.ID
		}
	}
	return result
}

func (m *Member) incarnation() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.view.incarnation == "" {
		return "none"
	}
	return m.view.incarnation
}

func (m *Member) replace(r *records) {
	m.mu.Lock()
	r.keepWaiters(m.view)
	m.view, m.seen, m.viewed = r, time.Now(), time.Now()
	if m.err != nil {
		m.err, m.since = nil, m.seen
	}
	m.mu.Unlock()
	m.changed("")
}

// drop lets go of a view that has grown too large. What bounds it told are then
// those that the budgets' status remembers.
func (m *Member) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view = newRecords(m.cluster)
}

func (m *Member) update(event clientv3.WatchResponse) error {
	touched := map[string]bool{}
	m.mu.Lock()
	for _, e := range event.Events {
		var namespace string
		var matters bool
		if e.Type == clientv3.EventTypeDelete {
			namespace, matters = m.view.remove(string(e.Kv.Key))
		} else {
			namespace, matters = m.view.apply(string(e.Kv.Key), e.Kv.Value)
		}
		if matters {
			touched[namespace] = true
		}
	}
	m.seen, m.viewed = time.Now(), time.Now()
	held := m.view.held
	m.mu.Unlock()
	if held > maxHeld {
		return &overloadError{m.cluster}
	}
	for _, subject := range m.subjects(event, touched) {
		m.changed(subject)
	}
	return nil
}

func (m *Member) fail(err error) {
	err = m.explain(err)
	m.mu.Lock()
	if m.err == nil {
		m.since = time.Now()
	}
	first := m.err == nil || m.err.Error() != err.Error()
	m.err = err
	m.mu.Unlock()
	if first {
		m.changed("")
	}
}
