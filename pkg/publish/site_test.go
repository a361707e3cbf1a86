package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// site is cluster c1 around a Publisher: its kvstore instances, registry,
// ledger, API server and informers. It notes every call.
type site struct {
	mu    sync.Mutex
	calls []string
	// before runs at the start of a call, by its name or first word.
	before map[string]func(context.Context) error

	configured []string
	stores     map[string]*store
	registered []string
	ledger     claim.Ledger
	// parts and seen are what informers show; alive is what is true.
	parts []Part
	alive map[string]bool
	seen  map[string]Sight
	// retirable instances let their marker be taken off; gone ones nobody can read.
	retirable, gone map[string]bool
	ids             int
}

type store struct {
	// writes counts records that were published.
	writes              int
	incarnation, marker string
	values              map[string]string
}

// newSite has one instance, i1, and budget n/b with pod p0, which is alive.
func newSite(instances ...string) *site {
	if len(instances) == 0 {
		instances = []string{"i1"}
	}
	s := &site{
		before: map[string]func(context.Context) error{}, stores: map[string]*store{}, configured: instances,
		parts: []Part{part(1, "p0")}, alive: map[string]bool{"p0": true}, seen: map[string]Sight{}, gone: map[string]bool{}, retirable: map[string]bool{},
	}
	for _, i := range instances {
		s.stores[i] = &store{values: map[string]string{}}
	}
	return s
}

// part is budget n/b at a generation, with available pods.
func part(generation int64, pods ...string) Part {
	p := Part{Namespace: "n", Name: "b", Generation: generation, Budget: wire.Budget{
		UID: "b", Service: "db", MaxUnavailable: fmt.Sprint(generation), Expected: len(pods), View: []string{"c1"},
	}}
	for _, uid := range pods {
		p.Pods = append(p.Pods, wire.Pod{UID: uid, Name: uid})
	}
	return p
}

func (s *site) publisher(t *testing.T) *Publisher {
	t.Helper()
	p, err := New(Config{
		Cluster: "c1", Controller: "me", Store: s, Registry: siteRegistry{s}, Ledger: siteLedger{s}, Workload: s, Log: logr.Discard(),
		NewID: func(string) string {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ids++
			return fmt.Sprintf("life%d", s.ids)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// play runs a Publisher in a bubble, tells its story, and stops it.
func (s *site) play(t *testing.T, story func(t *testing.T, p *Publisher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := s.publisher(t)
		stop := s.start(t, p)
		story(t, p)
		stop()
	})
}

// start runs p and returns what stops it.
func (s *site) start(t *testing.T, p *Publisher) func() {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		p.Reap(ctx)
	}()
	synctest.Wait()
	return func() {
		cancel()
		<-reaped
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// pass lets time go by in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *site) edit(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *site) call(ctx context.Context, format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	word, _, _ := strings.Cut(name, " ")
	s.mu.Lock()
	s.calls = append(s.calls, name)
	hook := s.before[name]
	if hook == nil {
		hook = s.before[word]
	}
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if hook != nil {
		return hook(ctx)
	}
	return nil
}

// taken returns the calls by first word, all without words, and forgets them.
func (s *site) taken(words ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken []string
	for _, c := range s.calls {
		word, _, _ := strings.Cut(c, " ")
		if len(words) == 0 || slices.Contains(words, word) {
			taken = append(taken, c)
		}
	}
	s.calls = nil
	return taken
}

// shows returns what an instance shows: "p0=Available", "claim x=Pending",
// "b=2" for the bound of a budget; nothing without a marker of its own life.
func (s *site) shows(instance string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.stores[instance]
	if i.marker == "" || i.marker != i.incarnation {
		return []string{"no marker"}
	}
	var rows []string
	for key, value := range i.values {
		k, err := wire.ParseKey("c1", key)
		if err != nil {
			rows = append(rows, key)
			continue
		}
		var b wire.Budget
		var p wire.Pod
		var c wire.Claim
		switch k.Kind {
		case wire.KindBudget:
			_ = wire.Unmarshal([]byte(value), &b)
			rows = append(rows, k.Budget+"="+b.MaxUnavailable)
		case wire.KindPod:
			_ = wire.Unmarshal([]byte(value), &p)
			word := string(p.Unavailable)
			if p.Unavailable == wire.Available {
				word = "Available"
			}
			rows = append(rows, p.UID+"="+word)
		case wire.KindClaim:
			_ = wire.Unmarshal([]byte(value), &c)
			rows = append(rows, fmt.Sprintf("claim %s=%s", k.ID, c.State))
		}
	}
	slices.Sort(rows)
	return rows
}

func claimKey(c claim.Claim) string {
	return wire.Key{Kind: wire.KindClaim, Cluster: "c1", Namespace: c.Namespace, ID: c.ID}.String()
}

func record(c claim.Claim) string {
	value, err := wire.Marshal(mesh.ClaimRecord(c))
	if err != nil {
		panic(err)
	}
	return string(value)
}

func (s *site) Instances() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.configured)
}

func (s *site) PutIncarnation(ctx context.Context, instance string, i wire.Incarnation) error {
	if err := s.call(ctx, "PutIncarnation %s", instance); err != nil {
		return err
	}
	s.edit(func() { s.stores[instance].incarnation = i.ID })
	return nil
}

func (s *site) guarded(instance string, i wire.Incarnation, change func(*store)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stores[instance].incarnation != i.ID {
		return errors.New("another publisher has taken over")
	}
	change(s.stores[instance])
	return nil
}

func (s *site) Publish(ctx context.Context, instance string, i wire.Incarnation, changes []mesh.Change) error {
	if err := s.call(ctx, "Publish %s", instance); err != nil {
		return err
	}
	return s.guarded(instance, i, func(to *store) {
		to.writes += len(changes)
		for _, c := range changes {
			if c.Value == "" {
				delete(to.values, c.Key)
			} else {
				to.values[c.Key] = c.Value
			}
		}
	})
}

func (s *site) PutMarker(ctx context.Context, instance string, i wire.Incarnation) error {
	if err := s.call(ctx, "PutMarker %s", instance); err != nil {
		return err
	}
	return s.guarded(instance, i, func(to *store) { to.marker = i.ID })
}

func (s *site) Alive(ctx context.Context, instance string, i wire.Incarnation) error {
	if err := s.call(ctx, "Alive %s", instance); err != nil {
		return err
	}
	return s.guarded(instance, i, func(*store) {})
}

// Stored shows one key in a page, so that pages end everywhere.
func (s *site) Stored(ctx context.Context, instance string, visit func(map[string]string)) error {
	if err := s.call(ctx, "Stored %s", instance); err != nil {
		return err
	}
	s.mu.Lock()
	values := maps.Clone(s.stores[instance].values)
	s.mu.Unlock()
	for key, value := range values {
		visit(map[string]string{key: value})
	}
	return nil
}

func (s *site) StoredClaims(ctx context.Context, instance string) ([]claim.Claim, error) {
	if err := s.call(ctx, "StoredClaims %s", instance); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claimsIn(instance), nil
}

// claimsIn needs s.mu.
func (s *site) claimsIn(instance string) []claim.Claim {
	var claims []claim.Claim
	for key, value := range s.stores[instance].values {
		k, err := wire.ParseKey("c1", key)
		if err != nil || k.Kind != wire.KindClaim {
			continue
		}
		state := claim.Granted
		if strings.Contains(value, "Pending") {
			state = claim.Pending
		}
		claims = append(claims, claim.Claim{ID: k.ID, Namespace: k.Namespace, Cluster: "c1", State: state})
	}
	return claims
}

func (s *site) WriteClaim(ctx context.Context, instance string, c claim.Claim) error {
	if err := s.call(ctx, "WriteClaim %s %s", instance, c.ID); err != nil {
		return err
	}
	s.edit(func() { s.stores[instance].values[claimKey(c)] = record(c) })
	return nil
}

func (s *site) DeleteClaims(ctx context.Context, instance string, claims []claim.Claim) error {
	var failures []error
	for _, c := range claims {
		failures = append(failures, s.DeleteClaim(ctx, instance, c))
	}
	return errors.Join(failures...)
}

func (s *site) DeleteClaim(ctx context.Context, instance string, c claim.Claim) error {
	if err := s.call(ctx, "DeleteClaim %s %s", instance, c.ID); err != nil {
		return err
	}
	s.edit(func() { delete(s.stores[instance].values, claimKey(c)) })
	return nil
}

type siteRegistry struct{ *site }

func (r siteRegistry) Instances(ctx context.Context) ([]string, error) {
	if err := r.call(ctx, "Registered"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.registered), nil
}

func (r siteRegistry) Add(ctx context.Context, instance string) error {
	if err := r.call(ctx, "Add %s", instance); err != nil {
		return err
	}
	r.edit(func() {
		if !slices.Contains(r.registered, instance) {
			r.registered = append(r.registered, instance)
			slices.Sort(r.registered)
		}
	})
	return nil
}

func (r siteRegistry) Remove(ctx context.Context, instance string) error {
	if err := r.call(ctx, "Deregister %s", instance); err != nil {
		return err
	}
	r.edit(func() {
		r.registered = slices.DeleteFunc(r.registered, func(i string) bool { return i == instance })
	})
	return nil
}

type siteLedger struct{ *site }

func (l siteLedger) All(ctx context.Context) ([]claim.Claim, error) {
	if err := l.call(ctx, "All"); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ledger.Claims), nil
}

func (l siteLedger) move(ctx context.Context, name string, c claim.Claim, move func() bool) (bool, error) {
	if err := l.call(ctx, "%s %s", name, c.ID); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return move(), nil
}

func (l siteLedger) Withdraw(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move(ctx, "Withdraw", c, func() bool { return l.ledger.Withdraw(c.ID) })
}

func (l siteLedger) Release(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move(ctx, "Release", c, func() bool { return l.ledger.Release(c.ID, c.Seq) })
}

func (l siteLedger) Drop(ctx context.Context, c claim.Claim) (bool, error) {
	return l.move(ctx, "Drop", c, func() bool { return l.ledger.Drop(c.ID) })
}

func (s *site) Parts(ctx context.Context) ([]Part, error) {
	if err := s.call(ctx, "Parts"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.parts), nil
}

func (s *site) LivePods(ctx context.Context) (map[string]bool, error) {
	if err := s.call(ctx, "LivePods"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.alive), nil
}

func (s *site) Ended(ctx context.Context, _, _, uid string) (bool, error) {
	if err := s.call(ctx, "Ended %s", uid); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.alive[uid], nil
}

func (s *site) SeemsEnded(_ context.Context, _, _, uid string) Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.seen[uid], Alive)
}

// Claims are those of the informer, which is not behind here.
func (s *site) Claims(context.Context) ([]claim.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ledger.Claims), nil
}

func (s *site) InstanceGone(ctx context.Context, instance string, missing time.Duration) (bool, error) {
	if err := s.call(ctx, "InstanceGone %s %s", instance, missing); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone[instance], nil
}

func (s *site) Retire(ctx context.Context, instance string) (bool, error) {
	if err := s.call(ctx, "Retire %s", instance); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retirable[instance], nil
}

func fail(context.Context) error { return errors.New("broken") }

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}
