package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// stage is a mesh around one Decider of cluster c1: the ledger, two instances
// of the own kvstore, and what each cluster shows. It notes every call.
type stage struct {
	mu    sync.Mutex
	calls []string
	// before is run at the start of a call, by the call's name or its first
	// word; its error is the call's. after is the same at its end: the call has
	// taken effect, its caller does not know.
	before, after map[string]func(context.Context) error

	ledger     claim.Ledger
	registered []string
	stores     map[string]map[string]claim.Claim
	// cached and fresh are the views by cluster; own claims come on top of fresh.
	cached, fresh map[string]claim.Snapshot
	scope         map[string][]string
	changes       chan struct{}
	seen          []uint64
	withdrawn     func(bool) bool
	// sizes of the batches by what they were for.
	batches map[string][]int
}

// newStage shows c1 and c2 with two available pods each, budget n/b with maxUnavailable 1.
func newStage() *stage {
	return &stage{
		before: map[string]func(context.Context) error{}, after: map[string]func(context.Context) error{},
		registered: []string{"i1", "i2"},
		stores:     map[string]map[string]claim.Claim{"i1": {}, "i2": {}, "i3": {}},
		cached:     map[string]claim.Snapshot{"c1": view("c1 ++"), "c2": view("c2 ++")},
		fresh:      map[string]claim.Snapshot{"c1": view("c1 ++"), "c2": view("c2 ++")},
		scope:      map[string][]string{"b": {"c1", "c2"}, "b2": {"c1", "c2"}},
		changes:    make(chan struct{}),
		withdrawn:  func(is bool) bool { return is },
		batches:    map[string][]int{},
	}
}

var oneUnavailable = budget.Bound{Kind: budget.MaxUnavailable, Value: 1}

// view reads "c1 +-": pods c1-0, which is available, and c1-1, which is not;
// both expected by each of the budgets, n/b unless others are named.
func view(text string, budgets ...string) claim.Snapshot {
	cluster, pods, _ := strings.Cut(text, " ")
	s := claim.Snapshot{Cluster: cluster, Budgets: map[string]claim.Report{}}
	r := claim.Report{Service: "db", View: []string{"c1", "c2"}, Expected: len(pods), Bounds: []budget.Bound{oneUnavailable}}
	for i, letter := range pods {
		r.Pods = append(r.Pods, claim.Pod{UID: fmt.Sprintf("%s-%d", cluster, i), Available: letter == '+'})
	}
	if len(budgets) == 0 {
		budgets = []string{"n/b"}
	}
	for _, b := range budgets {
		s.Budgets[b] = r
	}
	return s
}

func unread(cluster, why string) claim.Snapshot {
	return claim.Snapshot{Cluster: cluster, Invalid: why}
}

func with(s claim.Snapshot, claims ...claim.Claim) claim.Snapshot {
	s.Claims = claims
	return s
}

// bound restates the bound of budget n/b.
func bound(s claim.Snapshot, b budget.Bound) claim.Snapshot {
	r := s.Budgets["n/b"]
	r.Bounds = []budget.Bound{b}
	s.Budgets["n/b"] = r
	return s
}

// clone keeps the Decider from changing what the next reader sees.
func clone(s claim.Snapshot) claim.Snapshot {
	budgets := map[string]claim.Report{}
	for name, r := range s.Budgets {
		budgets[name] = r
	}
	s.Budgets, s.Claims = budgets, slices.Clone(s.Claims)
	return s
}

func (s *stage) decider(t *testing.T, changes ...func(*Config)) *Decider {
	t.Helper()
	var mu sync.Mutex
	id := 0
	config := Config{
		Cluster: "c1", Replica: "r1", Ledger: (*stageLedger)(s), Registry: s, Own: s, Clusters: s, Scopes: s,
		Round: func(decisions int) { s.batch("round", decisions) },
		NewID: func() string {
			mu.Lock()
			defer mu.Unlock()
			id++
			return fmt.Sprintf("me%d", id)
		},
	}
	for _, change := range changes {
		change(&config)
	}
	d, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func request(budgets ...string) Request {
	r := Request{Namespace: "n", Pod: "db-0", UID: "c1-0", Reason: "Eviction", Services: map[string]string{}}
	if len(budgets) == 0 {
		budgets = []string{"n/b"}
	}
	for _, b := range budgets {
		r.Budgets = append(r.Budgets, claim.Covering{Name: b, Clusters: []string{"c1", "c2"}})
		r.Services[strings.TrimPrefix(b, "n/")] = "db"
	}
	return r
}

// call notes a call and runs what the test wants to happen in it.
func (s *stage) call(ctx context.Context, format string, args ...any) error {
	name := s.note(format, args...)
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.hook(ctx, s.before, name)
}

func (s *stage) note(format string, args ...any) string {
	name := fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
	return name
}

func (s *stage) hook(ctx context.Context, hooks map[string]func(context.Context) error, name string) error {
	word, _, _ := strings.Cut(name, " ")
	for _, key := range []string{name, word} {
		if h := hooks[key]; h != nil {
			return h(ctx)
		}
	}
	return nil
}

// hang answers when the caller stops asking, as a client on a dead network does.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func fail(context.Context) error { return errors.New("broken") }

// taken returns the calls that the test asks for, by first word; all without words.
func (s *stage) taken(words ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken []string
	for _, c := range s.calls {
		word, _, _ := strings.Cut(c, " ")
		if len(words) == 0 || slices.Contains(words, word) {
			taken = append(taken, c)
		}
	}
	return taken
}

// stands returns the claims of the ledger as "id State".
func (s *stage) stands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, c := range s.ledger.Claims {
		all = append(all, c.ID+" "+c.State.String())
	}
	return all
}

// shows returns the claims of one instance as "id State", sorted.
func (s *stage) shows(instance string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, c := range s.stores[instance] {
		all = append(all, c.ID+" "+c.State.String())
	}
	slices.Sort(all)
	return all
}

func (s *stage) change(edit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit()
	close(s.changes)
	s.changes = make(chan struct{})
}

// stageLedger has method names of its own.
type stageLedger stage

func (l *stageLedger) Append(ctx context.Context, c claim.Claim, seen uint64) (claim.Claim, claim.Asked, error) {
	s := (*stage)(l)
	if err := s.call(ctx, "Append"); err != nil {
		return claim.Claim{}, 0, err
	}
	s.mu.Lock()
	s.seen = append(s.seen, seen)
	stands, asked := s.ledger.Append(c, seen)
	s.mu.Unlock()
	if err := s.hook(ctx, s.after, "Append"); err != nil {
		return claim.Claim{}, 0, err
	}
	return stands, asked, nil
}

func (l *stageLedger) Grant(ctx context.Context, c claim.Claim) (bool, error) {
	s := (*stage)(l)
	if err := s.call(ctx, "Grant"); err != nil {
		return false, err
	}
	s.mu.Lock()
	granted := s.ledger.Grant(c.ID)
	s.mu.Unlock()
	if err := s.hook(ctx, s.after, "Grant"); err != nil {
		return false, err
	}
	return granted, nil
}

func (l *stageLedger) Withdraw(ctx context.Context, c claim.Claim) (bool, error) {
	s := (*stage)(l)
	if err := s.call(ctx, "Withdraw"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withdrawn(s.ledger.Withdraw(c.ID)), nil
}

func (l *stageLedger) Ticket(string) uint64 {
	s := (*stage)(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Ticket
}

func (s *stage) Instances(ctx context.Context) ([]string, error) {
	if err := s.call(ctx, "Instances"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.registered), nil
}

func (s *stage) WriteClaims(ctx context.Context, instance string, claims []claim.Claim) error {
	s.batch(instance, len(claims))
	for _, c := range claims {
		err := s.call(ctx, "WriteClaim %s %s", instance, c.State)
		s.mu.Lock()
		if err == nil {
			s.stores[instance][c.ID] = c
			s.calls = append(s.calls, fmt.Sprintf("Written %s %s", instance, c.State))
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) batch(what string, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches[what] = append(s.batches[what], size)
}

func (s *stage) WriteWaiters(ctx context.Context, instance, namespace, budget, replica string, waiters []claim.Waiter) error {
	var pods []string
	for _, w := range waiters {
		pods = append(pods, w.Pod)
	}
	return s.call(ctx, "WriteWaiters %s %s/%s %s %s", instance, namespace, budget, replica, strings.Join(pods, ","))
}

func (s *stage) DeleteClaim(ctx context.Context, instance string, c claim.Claim) error {
	if err := s.call(ctx, "DeleteClaim %s", instance); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stores[instance], c.ID)
	return nil
}

func (s *stage) Scope(ctx context.Context, namespace, name string) ([]string, error) {
	if err := s.call(ctx, "Scope %s/%s", namespace, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scope[name], nil
}

func (s *stage) Snapshot(ctx context.Context, cluster string, _ Query) claim.Snapshot {
	if err := s.call(ctx, "Snapshot %s", cluster); err != nil {
		return unread(cluster, "did not answer: "+err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	snapshot := clone(s.fresh[cluster])
	if cluster == "c1" {
		for _, c := range s.stores["i1"] {
			snapshot.Claims = append(snapshot.Claims, c)
		}
	}
	return snapshot
}

func (s *stage) Cached(cluster string, _ Query) claim.Snapshot {
	s.note("Cached %s", cluster)
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.cached[cluster])
}

func (s *stage) Changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// decideOn asks as the webhook does, waits for the clean-ups, and tells how long the answer took.
func decideOn(ctx context.Context, d *Decider, r Request) (claim.Outcome, time.Duration) {
	start := time.Now()
	o, refused := d.Refuse(r)
	if !refused {
		o = d.Decide(ctx, r)
	}
	took := time.Since(start)
	d.Close()
	return o, took
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}
