package ledger

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/batch"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Move changes a ledger and reports whether it did. It may run several times,
// on different states, until one of its results is durable.
type Move func(*claim.Ledger) bool

// Ledgers are the durable claims of the own cluster.
type Ledgers struct {
	// Wrote, if not nil, is told how many moves each durable write carried. Set it before the first move.
	Wrote func(moves int)
	// Informed, if not nil, returns a namespace's ledger as an informer shows it;
	// nil if there is none; it is only read. What another replica wrote then costs no conflict; the
	// compare-and-swap keeps it from costing more than one. Set it before the first move.
	Informed func(namespace string) *v1alpha1.DisruptionLedger

	client  client.Client
	cluster string
	// moves of one namespace that arrive together share a write.
	moves *batch.Group[string, Move, struct{}]

	mu     sync.Mutex
	shards map[string]*shard
}

// New returns the ledgers behind a client that does not cache reads.
func New(c client.Client, cluster string) *Ledgers {
	l := &Ledgers{client: c, cluster: cluster, shards: map[string]*shard{}}
	l.moves = batch.New(batch.Serial, func(ctx context.Context, namespace string, moves []Move) (struct{}, error) {
		return struct{}{}, l.shard(namespace).commit(ctx, moves)
	})
	return l
}

// Do makes a move on a namespace's ledger durable. An error means that it may
// or may not have taken effect.
func (l *Ledgers) Do(ctx context.Context, namespace string, move Move) error {
	_, err := l.moves.Call(ctx, namespace, move)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("write ledger %s: %w", namespace, ctx.Err())
	}
	return err
}

// Ticket returns the largest ticket of a namespace that the informer knows.
func (l *Ledgers) Ticket(namespace string) uint64 {
	if l.Informed == nil {
		return 0
	}
	if object := l.Informed(namespace); object != nil {
		return uint64(max(0, object.Ticket))
	}
	return 0
}

func (l *Ledgers) shard(namespace string) *shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[namespace]
	if s == nil {
		s = &shard{ledgers: l, namespace: namespace}
		l.shards[namespace] = s
	}
	return s
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
			ID: c.ID, UID: c.UID, Namespace: object.Name, Pod: c.Pod, Budgets: c.Budgets, Views: c.Views, Cluster: l.cluster,
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
			ID: c.ID, UID: c.UID, Pod: c.Pod, Budgets: c.Budgets, Views: c.Views, State: c.State.String(),
			Ticket: int64(c.Ticket), Seq: int64(c.Seq), Reason: c.Reason,
		})
	}
}

// shard is one namespace's ledger. Only one batch at a time works on it.
type shard struct {
	ledgers   *Ledgers
	namespace string
	// last is the object as this process wrote or read it; nil if unknown.
	last *v1alpha1.DisruptionLedger
}

// commit swaps until all moves are durable on the newest state.
func (s *shard) commit(ctx context.Context, moves []Move) error {
	s.catchUp()
	for {
		fresh := s.last == nil
		if fresh {
			if err := s.read(ctx); err != nil {
				return err
			}
		}
		ledger := s.ledgers.decode(s.last).Clone()
		changed := 0
		for _, move := range moves {
			if move(&ledger) {
				changed++
			}
		}
		if changed < len(moves) && !fresh {
			// "Nothing to do" must not rest on what another replica may have changed.
			s.last = nil
			continue
		}
		if changed == 0 {
			return nil
		}
		err := s.swap(ctx, ledger)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && s.last.ResourceVersion != "" {
			// Changed, made or deleted by another replica.
			s.last = nil
			continue
		}
		if err != nil {
			s.last = nil
			return fmt.Errorf("write ledger %s: %w", s.namespace, err)
		}
		if s.ledgers.Wrote != nil {
			s.ledgers.Wrote(changed)
		}
		return nil
	}
}

// catchUp takes over what the informer shows, if that is newer.
func (s *shard) catchUp() {
	if s.last == nil || s.ledgers.Informed == nil {
		return
	}
	if object := s.ledgers.Informed(s.namespace); object != nil && version(object) > version(s.last) {
		s.last = object.DeepCopy()
	}
}

// version orders the states of an object; 0 if it cannot be told (KEP-5504).
func version(object *v1alpha1.DisruptionLedger) uint64 {
	v, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return v
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
		// This clears them, and the API server then compares no fields at any write: nobody applies a
		// ledger, for which alone it would keep account of who owns what.
		object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
		err = s.ledgers.client.Update(ctx, object)
	}
	if err == nil {
		s.last = object
	}
	return err
}
