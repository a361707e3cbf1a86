package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/ledger"
)

// move is a word of a story: "append a", "append a as a2 seen 41", "grant a",
// "withdraw a", "release a at 1", "drop a". It returns what became of it.
func move(ctx context.Context, l *ledger.Ledgers, namespace, words string) (string, error) {
	w := strings.Fields(words)
	c := of(namespace, w[1])
	var seen uint64
	for i := 2; i < len(w); i += 2 {
		switch w[i] {
		case "as":
			c.ID = w[i+1]
		case "seen":
			if _, err := fmt.Sscan(w[i+1], &seen); err != nil {
				return "", err
			}
		case "at":
			if _, err := fmt.Sscan(w[i+1], &c.Seq); err != nil {
				return "", err
			}
		}
	}
	if w[0] == "append" {
		stands, asked, err := l.Append(ctx, c, seen)
		if err != nil && stands.ID == "" && asked == 0 {
			return "nothing", err
		}
		names := map[claim.Asked]string{claim.Appended: "appended", claim.Repeated: "repeated", claim.Undecided: "undecided"}
		return names[asked] + " " + text([]claim.Claim{stands}), nil
	}
	moves := map[string]func(context.Context, claim.Claim) (bool, error){"grant": l.Grant, "withdraw": l.Withdraw, "release": l.Release, "drop": l.Drop}
	done, err := moves[w[0]](ctx, c)
	return fmt.Sprint(done), err
}

// TestMoves tells one story, once to one replica and once to two in turn, of
// which each always remembers an old ledger.
func TestMoves(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		namespace := fresh("moves")
		var all []*ledger.Ledgers
		for range replicas {
			all = append(all, ledger.New(server, "c1"))
		}
		for n, step := range []struct{ move, want, durable string }{
			{"grant a", "false", ""},
			{"append a", "appended a=Pending/1/0", "a=Pending/1/0"},
			{"append a as a2", "undecided a=Pending/1/0", "a=Pending/1/0"},
			{"append b seen 41", "appended b=Pending/42/0", "a=Pending/1/0 b=Pending/42/0"},
			{"release a at 0", "false", "a=Pending/1/0 b=Pending/42/0"},
			{"drop a", "false", "a=Pending/1/0 b=Pending/42/0"},
			{"grant a", "true", "a=Granted/1/0 b=Pending/42/0"},
			{"grant a", "false", "a=Granted/1/0 b=Pending/42/0"},
			{"withdraw a", "false", "a=Granted/1/0 b=Pending/42/0"},
			{"append a as a3", "repeated a=Granted/1/1", "a=Granted/1/1 b=Pending/42/0"},
			{"append a as a4 seen 99", "repeated a=Granted/1/2", "a=Granted/1/2 b=Pending/42/0"},
			{"release a at 1", "false", "a=Granted/1/2 b=Pending/42/0"},
			{"release a at 2", "true", "b=Pending/42/0"},
			{"release a at 2", "false", "b=Pending/42/0"},
			{"withdraw b", "true", ""},
			{"withdraw b", "false", ""},
			{"grant b", "false", ""},
			// The ticket goes on counting when no claim stands.
			{"append c seen 7", "appended c=Pending/43/0", "c=Pending/43/0"},
			{"grant c", "true", "c=Granted/43/0"},
			{"drop c", "true", ""},
			{"drop c", "false", ""},
			// A pod may be claimed anew, under another ID.
			{"append a as a5", "appended a5=Pending/44/0", "a5=Pending/44/0"},
		} {
			got, err := move(t.Context(), all[n%replicas], namespace, step.move)
			if err != nil || got != step.want {
				t.Fatalf("%d replicas, step %d, %s: got %s, %v, want %s", replicas, n+1, step.move, got, err, step.want)
			}
			if got := durable(t, namespace); got != step.durable {
				t.Fatalf("%d replicas, step %d, %s: durable %q, want %q", replicas, n+1, step.move, got, step.durable)
			}
		}
	}
}

// TestObject: the claim in the API has all that a restore needs, and comes back whole.
func TestObject(t *testing.T) {
	t.Parallel()
	namespace := fresh("object")
	l := ledger.New(server, "c1")
	c := of(namespace, "a")
	if _, _, err := l.Append(t.Context(), c, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Grant(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Append(t.Context(), c, 0); err != nil {
		t.Fatal(err)
	}
	var object v1alpha1.DisruptionLedger
	if err := server.Get(t.Context(), client.ObjectKey{Name: namespace}, &object); err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.DisruptionClaim{ID: "a", UID: "pod-a", Pod: "db-a", Budgets: []string{namespace + "/db"}, Views: []string{"62863b3073ab1b58"}, State: "Granted", Ticket: 5, Seq: 1, Reason: "Eviction"}
	if object.Ticket != 5 || len(object.Claims) != 1 || fmt.Sprintf("%+v", object.Claims[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %d %+v, want %+v", object.Ticket, object.Claims, want)
	}
	if len(object.ManagedFields) > 0 {
		t.Errorf("the API server keeps account of who owns which field, at every write: %v", object.ManagedFields)
	}
	c.State, c.Ticket, c.Seq = claim.Granted, 5, 1
	claims, err := ledger.New(server, "c1").Claims(t.Context(), namespace)
	if err != nil || fmt.Sprintf("%+v", claims) != fmt.Sprintf("%+v", []claim.Claim{c}) {
		t.Errorf("got %+v, %v, want %+v", claims, err, c)
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	l := ledger.New(server, "c7")
	one, two := fresh("all"), fresh("all")
	for _, namespace := range []string{one, two} {
		if _, _, err := l.Append(t.Context(), of(namespace, "a"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if claims, err := l.Claims(t.Context(), fresh("all")); claims != nil || err != nil {
		t.Errorf("a namespace without ledger: %v, %v", claims, err)
	}
	for what, read := range map[string]func() ([]claim.Claim, error){
		"all":  func() ([]claim.Claim, error) { return l.All(t.Context()) },
		"from": func() ([]claim.Claim, error) { return l.From(t.Context(), server) },
	} {
		claims, err := read()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, c := range claims {
			found[c.Namespace+" "+c.UID+" "+c.Cluster] = true
		}
		if !found[one+" pod-a c7"] || !found[two+" pod-a c7"] {
			t.Errorf("%s: got %v", what, found)
		}
	}
}

// TestStaleReplica: a replica remembers a ledger that another one has changed
// since. No answer, "nothing to do" least of all, rests on that.
func TestStaleReplica(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ other, move, want, durable string }{
		{"withdraw a", "append a as a2", "appended a2=Pending/2/0", "a2=Pending/2/0"},
		{"withdraw a", "grant a", "false", ""},
		{"withdraw a", "withdraw a", "false", ""},
		{"grant a", "append a as a2", "repeated a=Granted/1/1", "a=Granted/1/1"},
		{"grant a", "withdraw a", "false", "a=Granted/1/0"},
		{"grant a", "grant a", "false", "a=Granted/1/0"},
		{"grant a", "release a at 0", "true", ""},
		{"grant a", "drop a", "true", ""},
		{"append b", "append b as b2", "undecided b=Pending/2/0", "a=Pending/1/0 b=Pending/2/0"},
		{"append b", "grant b", "true", "a=Pending/1/0 b=Granted/2/0"},
		{"append b", "append c", "appended c=Pending/3/0", "a=Pending/1/0 b=Pending/2/0 c=Pending/3/0"},
	} {
		namespace := fresh("stale")
		replica, other := ledger.New(server, "c1"), ledger.New(server, "c1")
		if got, err := move(t.Context(), replica, namespace, "append a"); err != nil || got != "appended a=Pending/1/0" {
			t.Fatal(got, err)
		}
		if _, err := move(t.Context(), other, namespace, tt.other); err != nil {
			t.Fatal(err)
		}
		got, err := move(t.Context(), replica, namespace, tt.move)
		if err != nil || got != tt.want || durable(t, namespace) != tt.durable {
			t.Errorf("%s there, %s here: got %s, %v, durable %q; want %s, %q", tt.other, tt.move, got, err, durable(t, namespace), tt.want, tt.durable)
		}
	}
}

// TestReplicasInConflict: no claim is lost and no ticket is given twice, also
// where the ledger is yet to be created.
func TestReplicasInConflict(t *testing.T) {
	t.Parallel()
	namespace := fresh("conflict")
	const each = 50
	replicas := []*ledger.Ledgers{ledger.New(server, "c1"), ledger.New(server, "c1")}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var mu sync.Mutex
	told := map[string]uint64{}
	var all sync.WaitGroup
	for r, l := range replicas {
		for i := range each {
			all.Go(func() {
				c := of(namespace, fmt.Sprintf("%d-%d", r, i))
				stands, asked, err := l.Append(ctx, c, 0)
				if err != nil || asked != claim.Appended || stands.ID != c.ID {
					t.Errorf("append %s: %+v, %d, %v", c.ID, stands, asked, err)
				}
				mu.Lock()
				defer mu.Unlock()
				told[c.ID] = stands.Ticket
			})
		}
	}
	all.Wait()
	claims, err := ledger.New(server, "c1").Claims(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	tickets := map[uint64]bool{}
	for _, c := range claims {
		if tickets[c.Ticket] || c.Ticket != told[c.ID] {
			t.Errorf("claim %s has ticket %d, was told %d, given before: %v", c.ID, c.Ticket, told[c.ID], tickets[c.Ticket])
		}
		tickets[c.Ticket] = true
	}
	if len(claims) != 2*each || len(tickets) != 2*each {
		t.Errorf("%d claims, %d tickets, want %d", len(claims), len(tickets), 2*each)
	}

	// Both grant and withdraw all of them: of the two moves on a claim exactly one happens.
	var granted, withdrawn sync.Map
	for _, c := range claims {
		all.Go(func() {
			done, err := replicas[0].Grant(ctx, c)
			if err != nil {
				t.Errorf("grant %s: %v", c.ID, err)
			} else if done {
				granted.Store(c.ID, true)
			}
		})
		all.Go(func() {
			done, err := replicas[1].Withdraw(ctx, c)
			if err != nil {
				t.Errorf("withdraw %s: %v", c.ID, err)
			} else if done {
				withdrawn.Store(c.ID, true)
			}
		})
	}
	all.Wait()
	left, err := ledger.New(server, "c1").Claims(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	stands := map[string]bool{}
	for _, c := range left {
		stands[c.ID] = c.State == claim.Granted
	}
	for _, c := range claims {
		_, g := granted.Load(c.ID)
		_, w := withdrawn.Load(c.ID)
		if g == w || g != stands[c.ID] {
			t.Errorf("claim %s: granted %v, withdrawn %v, stands granted %v", c.ID, g, w, stands[c.ID])
		}
	}
}

// TestBatching: moves that come while another is being written share the next
// write, and each still gets its own answer.
func TestBatching(t *testing.T) {
	t.Parallel()
	namespace := fresh("batch")
	const callers = 50
	c := newTraffic()
	l := ledger.New(c, "c1")
	var carried atomic.Int64
	l.Wrote = func(moves int) { carried.Add(int64(moves)) }
	if _, err := move(t.Context(), l, namespace, "append first"); err != nil {
		t.Fatal(err)
	}
	reads, writes := c.reads.Load(), c.writes.Load()
	g := c.gate()
	var called, all sync.WaitGroup
	called.Add(callers)
	for i := range callers {
		all.Go(func() {
			called.Done()
			id := fmt.Sprintf("%02d", i)
			got, err := move(t.Context(), l, namespace, "append "+id)
			if err != nil || !strings.HasPrefix(got, "appended "+id+"=Pending/") {
				t.Errorf("append %s: %s, %v", id, got, err)
			}
		})
	}
	receive(t, "first write", g.arrived)
	called.Wait()
	close(g.open)
	all.Wait()
	// Two, if all were quick enough to come before the first was written.
	if n := c.writes.Load() - writes; n > callers/5 {
		t.Errorf("%d moves took %d writes", callers, n)
	}
	if n := carried.Load(); n != callers+1 {
		t.Errorf("%d moves were told of, want %d", n, callers+1)
	}
	if n := c.reads.Load() - reads; n != 0 {
		t.Errorf("%d moves of the only replica took %d reads", callers, n)
	}
	if got := len(strings.Fields(durable(t, namespace))); got != callers+1 {
		t.Errorf("%d claims are durable", got)
	}
	// Namespaces do not wait for each other.
	g = c.gate()
	done := make(chan string, 1)
	all.Go(func() {
		got, err := move(t.Context(), l, namespace, "append last")
		done <- fmt.Sprint(got, err)
	})
	receive(t, "held write", g.arrived)
	c.interfere(nil)
	if _, err := move(t.Context(), l, fresh("batch"), "append a"); err != nil {
		t.Error(err)
	}
	close(g.open)
	if got := receive(t, "held move", done); !strings.HasPrefix(got, "appended last=") {
		t.Error(got)
	}
}

// TestCallersLeave: who cannot wait gets an error at once, and harms nobody
// who came with him.
func TestCallersLeave(t *testing.T) {
	t.Parallel()
	namespace := fresh("leave")
	c := newTraffic()
	l := ledger.New(c, "c1")
	g := c.gate()
	results := make(chan string, 10)
	call := func(ctx context.Context, words string) {
		go func() {
			got, err := move(ctx, l, namespace, words)
			results <- fmt.Sprintf("%s: %s %v", words, got, err)
		}()
	}

	// The one who leads leaves while his write is held; another one came later.
	leader, leave := context.WithCancel(t.Context())
	call(leader, "append leader")
	first := receive(t, "first write", g.arrived)
	call(t.Context(), "append patient")
	hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	call(hasty, "append hasty")
	if got, want := receive(t, "hasty", results), "append hasty: nothing write ledger "+namespace+": context deadline exceeded"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	leave()
	if got, want := receive(t, "leader", results), "append leader: nothing write ledger "+namespace+": context canceled"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Nobody waits for the first write any more, so it is given up.
	receive(t, "end of the first write", first.Done())
	close(g.open)
	if got := receive(t, "patient", results); !strings.HasPrefix(got, "append patient: appended patient=Pending/") {
		t.Error(got)
	}
	if got := durable(t, namespace); !strings.Contains(got, "patient=") || strings.Contains(got, "leader=") {
		t.Errorf("durable %s", got)
	}
}

// TestCompanyLeaves: of two callers who share a write one leaves; it goes on for both.
func TestCompanyLeaves(t *testing.T) {
	t.Parallel()
	for range 20 {
		if companyLeaves(t, fresh("company")) {
			return
		}
	}
	t.Error("two callers never shared a write")
}

// companyLeaves reports false if the two callers did not come in time to share one.
func companyLeaves(t *testing.T, namespace string) bool {
	c := newTraffic()
	l := ledger.New(c, "c1")
	g := c.gate()
	var mu sync.Mutex
	ran := map[string]bool{}
	call := func(ctx context.Context, id string) <-chan error {
		result := make(chan error, 1)
		go func() {
			result <- l.Do(ctx, namespace, func(led *claim.Ledger) bool {
				mu.Lock()
				defer mu.Unlock()
				ran[id] = true
				_, asked := led.Append(of(namespace, id), 0)
				return asked == claim.Appended
			})
		}()
		return result
	}
	hastyCtx, leave := context.WithCancel(t.Context())
	defer leave()
	opener := call(t.Context(), "opener")
	receive(t, "first write", g.arrived)
	hasty, patient := call(hastyCtx, "hasty"), call(t.Context(), "patient")
	g.open <- struct{}{}
	if err := receive(t, "opener", opener); err != nil {
		t.Fatal(err)
	}
	write := receive(t, "second write", g.arrived)
	mu.Lock()
	shared := ran["hasty"] && ran["patient"]
	mu.Unlock()
	if !shared {
		close(g.open)
		receive(t, "hasty", hasty)
		receive(t, "patient", patient)
		return false
	}
	leave()
	if err := receive(t, "hasty", hasty); !errors.Is(err, context.Canceled) {
		t.Errorf("hasty: %v", err)
	}
	if write.Err() != nil {
		t.Errorf("one caller has ended the write of both: %v", context.Cause(write))
	}
	close(g.open)
	if err := receive(t, "patient", patient); err != nil {
		t.Errorf("patient: %v", err)
	}
	// His error means that he cannot know.
	if got := durable(t, namespace); !strings.Contains(got, "hasty=") || !strings.Contains(got, "patient=") {
		t.Errorf("durable %s", got)
	}
	return true
}

// TestAmbiguousWrite: a write that took effect, or did not, and nobody can
// say. The error must not be taken for either; the next move reads again.
func TestAmbiguousWrite(t *testing.T) {
	t.Parallel()
	timeout := apierrors.NewTimeoutError("the answer was lost", 1)
	took := func(_ context.Context, write func() error) error { return errors.Join(write(), timeout) }
	lost := func(context.Context, func() error) error { return timeout }
	for n, tt := range []struct {
		fault                             func(context.Context, func() error) error
		before, move, next, want, durable string
	}{
		{took, "", "append a", "append a as a2", "undecided a=Pending/1/0", "a=Pending/1/0"},
		{lost, "", "append a", "append a as a2", "appended a2=Pending/1/0", "a2=Pending/1/0"},
		{took, "append z", "append a", "append a as a2", "undecided a=Pending/2/0", "a=Pending/2/0 z=Pending/1/0"},
		{lost, "append z", "append a", "append a as a2", "appended a2=Pending/2/0", "a2=Pending/2/0 z=Pending/1/0"},
		{took, "append a", "grant a", "withdraw a", "false", "a=Granted/1/0"},
		{lost, "append a", "grant a", "withdraw a", "true", ""},
		{took, "append a", "grant a", "grant a", "false", "a=Granted/1/0"},
		{took, "append a", "withdraw a", "grant a", "false", ""},
		{lost, "append a", "withdraw a", "grant a", "true", "a=Granted/1/0"},
	} {
		namespace := fresh("ambiguous")
		c := newTraffic()
		l := ledger.New(c, "c1")
		if tt.before != "" {
			if _, err := move(t.Context(), l, namespace, tt.before); err != nil {
				t.Fatal(err)
			}
		}
		c.interfere(tt.fault)
		got, err := move(t.Context(), l, namespace, tt.move)
		if !apierrors.IsTimeout(err) || !strings.HasPrefix(err.Error(), "write ledger "+namespace+": ") {
			t.Errorf("%d, %s: got %s, %v", n, tt.move, got, err)
		}
		if got != "nothing" && got != "false" {
			t.Errorf("%d, %s: got %q beside an error", n, tt.move, got)
		}
		c.interfere(nil)
		reads := c.reads.Load()
		got, err = move(t.Context(), l, namespace, tt.next)
		if err != nil || got != tt.want || durable(t, namespace) != tt.durable {
			t.Errorf("%d, then %s: got %s, %v, durable %q; want %s, %q", n, tt.next, got, err, durable(t, namespace), tt.want, tt.durable)
		}
		if c.reads.Load() == reads {
			t.Errorf("%d, then %s: nothing was read", n, tt.next)
		}
	}
}

// TestUnreadable: what cannot be read is an error of everybody who asked, and
// only until it can.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	namespace := fresh("unreadable")
	c := newTraffic()
	l := ledger.New(c, "c1")
	c.deafen(errors.New("no connection"))
	_, readErr := l.Claims(t.Context(), namespace)
	_, allErr := l.All(t.Context())
	_, moveErr := move(t.Context(), l, namespace, "append a")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{readErr, "read ledger " + namespace + ": no connection"},
		{allErr, "list ledgers: no connection"},
		{moveErr, "read ledger " + namespace + ": no connection"},
	} {
		if fmt.Sprint(tt.err) != tt.want {
			t.Errorf("got %v, want %s", tt.err, tt.want)
		}
	}
	c.deafen(nil)
	if got, err := move(t.Context(), l, namespace, "append a"); err != nil || got != "appended a=Pending/1/0" {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestDeletedLedger: somebody deletes the object. One move fails, the next begins anew.
func TestDeletedLedger(t *testing.T) {
	t.Parallel()
	namespace := fresh("deleted")
	l := ledger.New(server, "c1")
	if _, err := move(t.Context(), l, namespace, "append a"); err != nil {
		t.Fatal(err)
	}
	if err := server.Delete(t.Context(), &v1alpha1.DisruptionLedger{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	if got, err := move(t.Context(), l, namespace, "grant a"); err == nil && got != "false" {
		t.Errorf("granted a claim that is gone: %s", got)
	}
	if got, err := move(t.Context(), l, namespace, "append a as a2"); err != nil || got != "appended a2=Pending/1/0" {
		t.Errorf("got %s, %v", got, err)
	}
}
