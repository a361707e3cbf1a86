package mesh

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// Query names what a snapshot must cover: budgets of one namespace.
type Query struct {
	Namespace string
	Budgets   []BudgetRef
}

// BudgetRef is a budget and the Service that it must name.
type BudgetRef struct {
	Name    string
	Service string
}

// records are the decoded values under one cluster's prefix, all of them for
// the cached view, those of one query for a snapshot.
type records struct {
	cluster     string
	incarnation string
	marker      string
	budgets     map[string]wire.Budget
	pods        map[string]map[string]wire.Pod
	claims      map[string]map[string]wire.Claim
	// waiters by budget and replica.
	waiters map[string]map[string]told
	// undecodable holds the errors by subject and key; they harm only their subject.
	undecodable map[string]map[wire.Key]string
	// held is about how many bytes all of this takes.
	held int
}

func newRecords(cluster string) *records {
	return &records{
		cluster:     cluster,
		budgets:     map[string]wire.Budget{},
		pods:        map[string]map[string]wire.Pod{},
		claims:      map[string]map[string]wire.Claim{},
		waiters:     map[string]map[string]told{},
		undecodable: map[string]map[wire.Key]string{},
	}
}

// told is what one replica told of waiters, and the value that it came in.
type told struct {
	value   string
	waiters []claim.Waiter
}

// maxTold bounds how many waiters of one budget are heard of in one cluster.
const maxTold = 64

func join(namespace, name string) string { return namespace + "/" + name }

// apply takes a value in. It returns the namespace that the value is about, ""
// for the instance itself, and whether decisions or status may rest on it.
func (r *records) apply(key string, value []byte) (namespace string, matters bool) {
	k, err := wire.ParseKey(r.cluster, key)
	if err != nil {
		// A kind of a later version.
		return "", false
	}
	r.forget(k)
	if err := r.decode(k, value); err != nil {
		subject, why := subjectOf(k), brief(err.Error())
		put(r.undecodable, subject, k, why)
		r.held += weight(k, why)
	}
	return k.Namespace, k.Kind != wire.KindWaiters
}

// subjectOf names what a key is about: all of the cluster by "", the claims of a
// namespace by its name, one budget by "namespace/name".
func subjectOf(k wire.Key) string {
	if k.Budget == "" {
		return k.Namespace
	}
	return join(k.Namespace, k.Budget)
}

// remove takes a deleted key out and returns what apply does.
func (r *records) remove(key string) (namespace string, matters bool) {
	k, err := wire.ParseKey(r.cluster, key)
	if err != nil {
		return "", false
	}
	r.forget(k)
	return k.Namespace, k.Kind != wire.KindWaiters
}

func (r *records) forget(k wire.Key) {
	name := join(k.Namespace, k.Budget)
	switch k.Kind {
	case wire.KindIncarnation:
		r.incarnation = ""
	case wire.KindMarker:
		r.marker = ""
	case wire.KindBudget:
		if old, ok := r.budgets[name]; ok {
			r.held -= weightOfBudget(k, old)
			delete(r.budgets, name)
		}
	case wire.KindPod:
		if old, ok := take(r.pods, name, k.ID); ok {
			r.held -= weightOfPod(k, old)
		}
	case wire.KindWaiters:
		if old, ok := take(r.waiters, name, k.ID); ok {
			r.held -= weightOfTold(k, old)
		}
	case wire.KindClaim:
		if old, ok := take(r.claims, k.Namespace, k.ID); ok {
			r.held -= weightOfClaim(k, old)
		}
	}
	if why, ok := take(r.undecodable, subjectOf(k), k); ok {
		r.held -= weight(k, why)
	}
}

// take removes what stands under key in one of the maps in all, and the map if nothing is left in it.
func take[K comparable, V any](all map[string]map[K]V, name string, key K) (V, bool) {
	old, ok := all[name][key]
	if delete(all[name], key); len(all[name]) == 0 {
		delete(all, name)
	}
	return old, ok
}

// put is the reverse of take.
func put[K comparable, V any](all map[string]map[K]V, name string, key K, value V) {
	if all[name] == nil {
		all[name] = map[K]V{}
	}
	all[name][key] = value
}

func (r *records) decode(k wire.Key, value []byte) error {
	switch k.Kind {
	case wire.KindIncarnation:
		var v wire.Incarnation
		if err := wire.Unmarshal(value, &v); err != nil {
			return err
		}
		r.incarnation = v.ID
	case wire.KindMarker:
		var v wire.Marker
		if err := wire.Unmarshal(value, &v); err != nil {
			return err
		}
		r.marker = v.Incarnation
	case wire.KindBudget:
		var v wire.Budget
		if err := wire.Unmarshal(value, &v); err != nil {
			return err
		}
		v.Undecided = brief(v.Undecided)
		r.budgets[join(k.Namespace, k.Budget)] = v
		r.held += weightOfBudget(k, v)
	case wire.KindPod:
		var v wire.Pod
		if err := wire.Unmarshal(value, &v); err != nil {
			return err
		}
		if v.UID != k.ID {
			return fmt.Errorf("decode pod: uid %q does not match its key", v.UID)
		}
		put(r.pods, join(k.Namespace, k.Budget), k.ID, v)
		r.held += weightOfPod(k, v)
	case wire.KindWaiters:
		var v wire.Waiters
		// What cannot be read is nothing that any decision depends on.
		if wire.Unmarshal(value, &v) == nil {
			t := told{value: string(value), waiters: toWaiters(k.Cluster, v, time.Now())}
			put(r.waiters, join(k.Namespace, k.Budget), k.ID, t)
			r.held += weightOfTold(k, t)
		}
	case wire.KindClaim:
		var v wire.Claim
		if err := wire.Unmarshal(value, &v); err != nil {
			return err
		}
		if v.ID != k.ID {
			return fmt.Errorf("decode claim: id %q does not match its key", v.ID)
		}
		put(r.claims, k.Namespace, k.ID, v)
		r.held += weightOfClaim(k, v)
	}
	return nil
}

// complete reports why the instance that was read is not (yet) to be believed (rule R1).
func (r *records) complete() error {
	switch {
	case r.incarnation == "" && r.marker == "":
		return fmt.Errorf("no meshpdb publishes in its kvstore")
	case r.marker != r.incarnation:
		return fmt.Errorf("its meshpdb has not finished publishing after a restart")
	}
	return nil
}

// snapshot puts the records of a query together. serving tells, for an
// exported Service, which addresses Cilium still lists; nil skips that check.
func (r *records) snapshot(q Query, serving func(service string) (map[string]bool, error)) claim.Snapshot {
	s := claim.Snapshot{Cluster: r.cluster, Budgets: map[string]claim.Report{}}
	if err := r.complete(); err != nil {
		s.Invalid = err.Error()
	}
	for _, c := range r.claims[q.Namespace] {
		s.Claims = append(s.Claims, toClaim(r.cluster, q.Namespace, c))
	}
	for _, ref := range q.Budgets {
		name := join(q.Namespace, ref.Name)
		b, ok := r.budgets[name]
		if err := r.damage(q.Namespace, ref.Name); err != nil {
			s.Budgets[name] = claim.Report{Undecided: err.Error(), Bounds: bounds(b)}
			continue
		}
		if !ok || b.Tombstone {
			continue
		}
		s.Budgets[name] = r.report(name, ref, b, serving)
	}
	return s
}

// waiting returns the waiters of the query's budgets, by budget; nil if there are none.
func (r *records) waiting(q Query) map[string][]claim.Waiter {
	var all map[string][]claim.Waiter
	for _, ref := range q.Budgets {
		name := join(q.Namespace, ref.Name)
		for _, t := range r.waiters[name] {
			if all == nil {
				all = map[string][]claim.Waiter{}
			}
			if len(all[name])+len(t.waiters) <= maxTold {
				all[name] = append(all[name], t.waiters...)
			}
		}
	}
	return all
}

func (r *records) report(name string, ref BudgetRef, b wire.Budget, serving func(string) (map[string]bool, error)) claim.Report {
	report := claim.Report{Service: b.Service, Bounds: bounds(b), Expected: b.Expected, View: b.View, Undecided: b.Undecided}
	if b.Service != ref.Service {
		report.Undecided = fmt.Sprintf("its budget %s names service %s instead of %s", name, brief(b.Service), ref.Service)
		return report
	}
	var addresses map[string]bool
	if b.Exported && serving != nil {
		var err error
		if addresses, err = serving(b.Service); err != nil {
			report.Undecided = err.Error()
			return report
		}
	}
	for uid, p := range r.pods[name] {
		ready := p.Unavailable == wire.Available
		exported := addresses == nil || slices.ContainsFunc(p.IPs, func(ip string) bool { return addresses[ip] })
		report.Pods = append(report.Pods, claim.Pod{
			UID: uid, Available: ready && exported, Unexported: ready && !exported, Terminating: p.Unavailable == wire.Terminating,
		})
	}
	return report
}

// damage returns the first undecodable value that the budget depends on.
func (r *records) damage(namespace, name string) error {
	first, why := "", ""
	for _, subject := range []string{"", namespace, join(namespace, name)} {
		for k, w := range r.undecodable[subject] {
			// The first by its key, so that the sentence stays the same.
			if key := k.String(); first == "" || key < first {
				first, why = key, w
			}
		}
	}
	if first == "" {
		return nil
	}
	return fmt.Errorf("its kvstore value %s: %s", brief(strings.TrimPrefix(first, wire.ClusterPrefix(r.cluster))), why)
}

// bounds of a record, which has one.
func bounds(b wire.Budget) []budget.Bound {
	kind, value := budget.MinAvailable, b.MinAvailable
	if value == "" {
		kind, value = budget.MaxUnavailable, b.MaxUnavailable
	}
	bound, ok := budget.ParseBound(kind.String() + " " + value)
	if !ok {
		return nil
	}
	return []budget.Bound{bound}
}

func toClaim(cluster, namespace string, c wire.Claim) claim.Claim {
	state := claim.Granted
	if c.State == wire.Pending {
		state = claim.Pending
	}
	return claim.Claim{
		ID: c.ID, UID: c.UID, Namespace: namespace, Pod: c.Pod, Budgets: c.Budgets, Views: c.Views,
		Cluster: cluster, State: state, Ticket: c.Ticket, Seq: c.Seq, Reason: string(c.Reason),
	}
}

// keepWaiters takes over from an earlier view what was told in the same words:
// a new list is no new try.
func (r *records) keepWaiters(earlier *records) {
	for name, replicas := range r.waiters {
		for replica, t := range replicas {
			if old := earlier.waiters[name][replica]; old.value == t.value {
				replicas[replica] = old
			}
		}
	}
}

// toWaiters puts the times of a record that has just arrived on the own clock.
func toWaiters(cluster string, w wire.Waiters, now time.Time) []claim.Waiter {
	before := func(millis int64) time.Time { return now.Add(-time.Duration(millis) * time.Millisecond) }
	all := make([]claim.Waiter, 0, len(w.Pods))
	for _, p := range w.Pods {
		all = append(all, claim.Waiter{
			Cluster: cluster, UID: p.UID, Pod: p.Pod, Ticket: p.Ticket,
			First: before(p.WaitedMillis), Last: before(p.LastMillis), Every: time.Duration(p.EveryMillis) * time.Millisecond,
		})
	}
	return all
}

// waitersRecord is the reverse of toWaiters.
func waitersRecord(waiters []claim.Waiter, now time.Time) *wire.Waiters {
	w := &wire.Waiters{}
	millis := func(d time.Duration) int64 { return min(max(0, d.Milliseconds()), wire.MaxMillis) }
	for _, p := range waiters {
		w.Pods = append(w.Pods, wire.Waiter{
			UID: p.UID, Pod: p.Pod, Ticket: p.Ticket,
			WaitedMillis: millis(now.Sub(p.First)), LastMillis: millis(now.Sub(p.Last)), EveryMillis: millis(p.Every),
		})
	}
	return w
}

// ClaimRecord returns the record that shows a claim to the mesh.
func ClaimRecord(c claim.Claim) *wire.Claim {
	state := wire.Granted
	if c.State == claim.Pending {
		state = wire.Pending
	}
	return &wire.Claim{
		ID: c.ID, UID: c.UID, Pod: c.Pod, Budgets: c.Budgets, Views: c.Views, State: state,
		Ticket: c.Ticket, Seq: c.Seq, Reason: wire.Reason(c.Reason),
	}
}
