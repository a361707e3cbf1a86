package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Move changes a ledger and reports whether it did. It may run several times,
// on different states, until one of its results is durable.
type Move func(*claim.Ledger) bool

// Ledgers are the durable claims of the own cluster.
type Ledgers struct {
	client  client.Client
	cluster string

	mu     sync.Mutex
	shards map[string]*shard
}

// New returns the ledgers behind a client that does not cache reads.
func New(c client.Client, cluster string) *Ledgers {
	return &Ledgers{client: c, cluster: cluster, shards: map[string]*shard{}}
}

// Do makes a move on a namespace's ledger durable. An error means that it may
// or may not have taken effect.
func (l *Ledgers) Do(ctx context.Context, namespace string, move Move) error {
	l.mu.Lock()
	s := l.shards[namespace]
	if s == nil {
		s = &shard{ledgers: l, namespace: namespace}
		l.shards[namespace] = s
	}
	l.mu.Unlock()
	return s.do(ctx, move)
}

// Claims reads a namespace's claims by quorum.
func (l *Ledgers) Claims(ctx context.Context, namespace string) ([]claim.Claim, error) {
	var object v1alpha1.DisruptionLedger
	err := l.client.Get(ctx, client.ObjectKey{Name: namespace}, &object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger %s: %w", namespace, err)
	}
	return l.decode(&object).Claims, nil
}

// All reads the claims of all namespaces by quorum (R1 c).
func (l *Ledgers) All(ctx context.Context) ([]claim.Claim, error) { return l.From(ctx, l.client) }

// From reads the claims of all namespaces through a reader, such as an
// informer's: then they are a hint only.
func (l *Ledgers) From(ctx context.Context, reader client.Reader) ([]claim.Claim, error) {
	var list v1alpha1.DisruptionLedgerList
	if err := reader.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list ledgers: %w", err)
	}
	var all []claim.Claim
	for i := range list.Items {
		all = append(all, l.decode(&list.Items[i]).Claims...)
	}
	return all, nil
}

func (l *Ledgers) decode(object *v1alpha1.DisruptionLedger) claim.Ledger {
	ledger := claim.Ledger{Ticket: uint64(max(0, object.Ticket))}
	for _, c := range object.Claims {
		state := claim.Granted
		if c.State == claim.Pending.String() {
			state = claim.Pending
		}
		ledger.Claims = append(ledger.Claims, claim.Claim{
			ID: c.ID, UID: c.UID, Namespace: object.Name, Pod: c.Pod, Budgets: c.Budgets, Cluster: l.cluster,
			State: state, Ticket: uint64(max(0, c.Ticket)), Seq: uint64(max(0, c.Seq)), Reason: c.Reason,
		})
	}
	return ledger
}

func encode(ledger claim.Ledger, object *v1alpha1.DisruptionLedger) {
	object.Ticket = int64(ledger.Ticket)
	object.Claims = nil
	for _, c := range ledger.Claims {
		object.Claims = append(object.Claims, v1alpha1.DisruptionClaim{
			ID: c.ID, UID: c.UID, Pod: c.Pod, Budgets: c.Budgets, State: c.State.String(),
			Ticket: int64(c.Ticket), Seq: int64(c.Seq), Reason: c.Reason,
		})
	}
}

// shard batches the moves on one namespace's ledger.
type shard struct {
	ledgers   *Ledgers
	namespace string

	mu      sync.Mutex
	waiting []*waiter
	writing bool

	// last is the object as this process wrote or read it; nil if unknown.
	// Only the writing goroutine touches it.
	last *v1alpha1.DisruptionLedger
}

type waiter struct {
	ctx  context.Context
	move Move
	done chan error
}

func (s *shard) do(ctx context.Context, move Move) error {
	w := &waiter{ctx: ctx, move: move, done: make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	lead := !s.writing
	s.writing = true
	s.mu.Unlock()
	if lead {
		// The first caller writes for all that come meanwhile; it goes on in its
		// own goroutine, since its own context may end before theirs.
		go s.write()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write ledger %s: %w", s.namespace, ctx.Err())
	}
}

func (s *shard) write() {
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		if len(batch) == 0 {
			s.writing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.commit(batch)
		for _, w := range batch {
			w.done <- err
		}
	}
}

// commit swaps until the batch is durable on the newest state.
func (s *shard) commit(batch []*waiter) error {
	// The batch lives as long as its most patient caller.
	ctx, cancel := longest(batch)
	defer cancel()
	for {
		fresh := s.last == nil
		if fresh {
			if err := s.read(ctx); err != nil {
				return err
			}
		}
		ledger := s.ledgers.decode(s.last).Clone()
		changed, unchanged := false, false
		for _, w := range batch {
			if w.move(&ledger) {
				changed = true
			} else {
				unchanged = true
			}
		}
		if unchanged && !fresh {
			// "Nothing to do" must not rest on what another replica may have changed.
			s.last = nil
			continue
		}
		if !changed {
			return nil
		}
		err := s.swap(ctx, ledger)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			s.last = nil
			continue
		}
		if err != nil {
			s.last = nil
			return fmt.Errorf("write ledger %s: %w", s.namespace, err)
		}
		return nil
	}
}

func (s *shard) read(ctx context.Context) error {
	object := &v1alpha1.DisruptionLedger{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	err := s.ledgers.client.Get(ctx, client.ObjectKeyFromObject(object), object)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read ledger %s: %w", s.namespace, err)
	}
	s.last = object
	return nil
}

func (s *shard) swap(ctx context.Context, ledger claim.Ledger) error {
	object := s.last.DeepCopy()
	encode(ledger, object)
	var err error
	if object.ResourceVersion == "" {
		err = s.ledgers.client.Create(ctx, object)
	} else {
		err = s.ledgers.client.Update(ctx, object)
	}
	if err == nil {
		s.last = object
	}
	return err
}

// longest returns a context that ends when every caller's has.
func longest(batch []*waiter) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	var waiting sync.WaitGroup
	stops := make([]func() bool, 0, len(batch))
	for _, w := range batch {
		waiting.Add(1)
		stops = append(stops, context.AfterFunc(w.ctx, waiting.Done))
	}
	go func() {
		waiting.Wait()
		cancel(errors.New("all callers have left"))
	}()
	return ctx, func() {
		for _, stop := range stops {
			if stop() {
				waiting.Done()
			}
		}
	}
}
