package publish

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// Store writes the own kvstore, instance by instance.
type Store interface {
	Instances() []string
	PutIncarnation(ctx context.Context, instance string, incarnation wire.Incarnation) error
	Publish(ctx context.Context, instance string, incarnation wire.Incarnation, changes []mesh.Change) error
	PutMarker(ctx context.Context, instance string, incarnation wire.Incarnation) error
	Alive(ctx context.Context, instance string, incarnation wire.Incarnation) error
	// Stored visits all keys and values of an instance, page by page.
	Stored(ctx context.Context, instance string, visit func(page map[string]string)) error
	StoredClaims(ctx context.Context, instance string) ([]claim.Claim, error)
	// Retire takes the marker off an instance that is configured no more, and
	// reports whether that was acknowledged.
	Retire(ctx context.Context, instance string) (bool, error)
	WriteClaim(ctx context.Context, instance string, c claim.Claim) error
	DeleteClaim(ctx context.Context, instance string, c claim.Claim) error
	// DeleteClaims is DeleteClaim for several at once, all or none of 100.
	DeleteClaims(ctx context.Context, instance string, claims []claim.Claim) error
}

// Registry is the durable list of instances that claimants write to.
type Registry interface {
	Instances(ctx context.Context) ([]string, error)
	Add(ctx context.Context, instance string) error
	Remove(ctx context.Context, instance string) error
}

// Ledger is the durable record of claims. Its moves report false where the
// claim had moved on; its records in the stores must then stay (R10).
type Ledger interface {
	All(ctx context.Context) ([]claim.Claim, error)
	Withdraw(ctx context.Context, c claim.Claim) (bool, error)
	Release(ctx context.Context, c claim.Claim) (bool, error)
	Drop(ctx context.Context, c claim.Claim) (bool, error)
}

// Cluster answers about the own cluster's pods and claims.
type Cluster interface {
	// Parts returns this cluster's part in every budget: the budgets by a quorum
	// list, their pods from the informers.
	Parts(ctx context.Context) ([]Part, error)
	// LivePods returns, by a quorum list, the covered pods that exist and are not terminating, by UID.
	LivePods(ctx context.Context) (map[string]bool, error)
	// Ended reports, by a quorum read, whether a pod is terminating or gone.
	Ended(ctx context.Context, namespace, pod, uid string) (bool, error)
	// SeemsEnded is what the informer shows of a pod, which costs nothing.
	SeemsEnded(ctx context.Context, namespace, pod, uid string) Sight
	// Claims returns the ledgers from the informer: a hint that costs nothing.
	Claims(ctx context.Context) ([]claim.Claim, error)
	// InstanceGone reports whether nobody can read an instance that is no longer
	// configured and could not be retired.
	// missing is how long it has been so.
	InstanceGone(ctx context.Context, instance string, missing time.Duration) (bool, error)
}

// Sight is what an informer shows of a pod. The zero value is invalid.
type Sight uint8

const (
	// Alive: it is there, as far as the informer has heard.
	Alive Sight = iota + 1
	// Ended: it is on its way out or gone, which is never taken back.
	Ended
	// Missing: the informer does not know it. It is gone, or has not been heard of yet.
	Missing
)

// Part is this cluster's part in one budget.
type Part struct {
	Namespace, Name string
	// Generation of the budget's spec. An older one never replaces a newer one.
	Generation int64
	Budget     wire.Budget
	Pods       []wire.Pod
}

// Config of a Publisher; everything is required but Changed.
type Config struct {
	Cluster    string
	Controller string
	Store      Store
	Registry   Registry
	Ledger     Ledger
	Workload   Cluster
	// NewID returns an incarnation for an instance, which was never used before.
	NewID func(instance string) string
	Log   logr.Logger
	// Changed is told that Problems has changed. It must not block.
	Changed func()
}

const (
	ioTimeout = 5 * time.Second
	// restoreTimeout leaves room for one list of pods per budget.
	restoreTimeout = time.Minute
	// aliveInterval is well below the marker's time to live.
	aliveInterval = 2 * time.Second
	// tidyInterval is how often claims are looked at whose time may have come.
	tidyInterval = time.Second
	// dropInterval lies between two writes that drop the claims of pods that have ended: at leisure, since they cost no
	// budget any more. Each such write may cross one of a replica that decides, and cost it a second try.
	dropInterval = 4 * time.Second
	// startPatience is how long reconciles wait for the first instance: they would
	// compete for the API server with what brings it into service.
	startPatience = 15 * time.Second
	// deregisterInterval is how often the registry is looked at while it is in line
	// with the configuration.
	deregisterInterval = 5 * time.Second
	// compareInterval is how often stores are compared with the ledger (R11).
	compareInterval = 30 * time.Second
	retryInterval   = 500 * time.Millisecond
	// endedMemory is far longer than any informer can lag.
	endedMemory = time.Hour
)

// ErrStarting stands for an instance that was neither in service yet nor has
// failed: nothing can be said of it.
var ErrStarting = errors.New("not published yet")

// Publisher publishes while Run runs. Set and Remove may be called at any time.
type Publisher struct {
	config Config

	mu sync.Mutex
	// parts by namespace/name.
	parts map[string]*exhibit
	// removals counts calls of Remove; removed holds the last one of each budget,
	// shown or not: a list that began earlier must not bring it back.
	removals uint64
	removed  map[string]uint64
	// listed: a restore of this term has verified by one list what stood then.
	listed bool
	// verified pods were seen alive by a quorum read of this publisher.
	verified map[string]bool
	// ended pods were seen terminating or gone by a quorum read, and when.
	ended map[string]time.Time
	// generation counts changes of what is shown.
	generation uint64
	instances  map[string]*instanceState

	started chan struct{}
	start   func()
}

// instanceState is what one instance has been shown.
type instanceState struct {
	dirty   map[ref]struct{}
	shown   uint64
	serving bool
	wake    chan struct{}
	err     error
}

// New checks the configuration.
func New(config Config) (*Publisher, error) {
	if config.Cluster == "" || config.Store == nil || config.Registry == nil || config.Ledger == nil || config.Workload == nil || config.NewID == nil {
		return nil, errors.New("publish: cluster, store, registry, ledger, workload and newID are required")
	}
	if config.Changed == nil {
		config.Changed = func() {}
	}
	p := &Publisher{config: config, started: make(chan struct{})}
	p.start = sync.OnceFunc(func() { close(p.started) })
	p.reset()
	return p, nil
}

func (p *Publisher) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts, p.removed, p.listed = map[string]*exhibit{}, map[string]uint64{}, false
	p.verified, p.ended = map[string]bool{}, map[string]time.Time{}
	p.instances = map[string]*instanceState{}
}

// Run publishes until ctx ends. It starts from nothing each time: what an
// earlier term verified may have ended since.
func (p *Publisher) Run(ctx context.Context) error {
	p.reset()
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { p.tidyLoop(ctx) })
	patience := time.AfterFunc(startPatience, p.start)
	defer patience.Stop()
	stops := map[string]context.CancelFunc{}
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		configured := p.config.Store.Instances()
		for _, name := range configured {
			if stops[name] == nil {
				loopCtx, cancel := context.WithCancel(ctx)
				stops[name] = cancel
				state := p.addInstance(name)
				loops.Go(func() { p.instanceLoop(loopCtx, name, state) })
			}
		}
		for name, stop := range stops {
			if !slices.Contains(configured, name) {
				stop()
				delete(stops, name)
				p.removeInstance(name)
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return nil
		case <-tick.C:
		}
	}
}

// Set publishes this cluster's part in a budget from now on. A pod that no
// quorum read has seen alive yet is shown as not ready until one has: the list
// of the restore that is to come, or after that a look at the pod itself.
func (p *Publisher) Set(ctx context.Context, part Part) error {
	var failure error
	for _, pod := range p.unknown(part) {
		ended, err := p.config.Workload.Ended(ctx, part.Namespace, pod.Name, pod.UID)
		if err != nil {
			failure = err
			continue
		}
		p.mu.Lock()
		if ended {
			p.ended[pod.UID] = time.Now()
		} else {
			p.verified[pod.UID] = true
		}
		p.mu.Unlock()
	}
	p.set(part)
	return failure
}

// unknown returns the pods of a part that must be looked at before they may be shown as available.
func (p *Publisher) unknown(part Part) []wire.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.listed {
		return nil
	}
	var unknown []wire.Pod
	for _, pod := range part.Pods {
		if _, ended := p.ended[pod.UID]; pod.Unavailable == wire.Available && !p.verified[pod.UID] && !ended {
			unknown = append(unknown, pod)
		}
	}
	return unknown
}

// Remove stops publishing a budget.
func (p *Publisher) Remove(namespace, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := namespace + "/" + name
	p.removals++
	p.removed[id] = p.removals
	p.show(id, nil)
}

// adopt takes parts from a quorum list of budgets that began when removals
// stood at since, but those that the reconciler has set at this generation or
// removed since: its pods are newer.
func (p *Publisher) adopt(parts []Part, since uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range parts {
		standing := p.parts[part.id()]
		removed := p.removed[part.id()] > since
		if removed || standing != nil && standing.Budget.UID == part.Budget.UID && standing.Generation >= part.Generation {
			continue
		}
		p.show(part.id(), p.exhibit(part))
	}
}

func (p *Publisher) lastRemoval() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removals
}

func (p *Publisher) set(part Part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.parts[part.id()]; old != nil && old.Budget.UID == part.Budget.UID && old.Generation > part.Generation {
		// From an informer that is behind the quorum list: it would loosen a bound that others have counted with.
		return
	}
	p.show(part.id(), p.exhibit(part))
}

func (s *instanceState) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// markEnded takes note that a pod has ended and returns the generation in
// which no instance shows it as available any more.
func (p *Publisher) markEnded(uid string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.ended[uid]; !known {
		p.ended[uid] = time.Now()
		// Even if no part has the pod any more: that an instance shows no such pod must be
		// confirmed after its end, by one that is still the instance's publisher.
		p.generation++
		for _, state := range p.instances {
			state.poke()
		}
		for id, e := range p.parts {
			if slices.ContainsFunc(e.Pods, func(pod wire.Pod) bool { return pod.UID == uid }) {
				p.show(id, p.exhibit(e.Part))
			}
		}
	}
	return p.generation
}

func (p *Publisher) addInstance(name string) *instanceState {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := &instanceState{dirty: map[ref]struct{}{}, wake: make(chan struct{}, 1), err: ErrStarting}
	p.instances[name] = state
	return state
}

func (p *Publisher) removeInstance(name string) {
	p.mu.Lock()
	delete(p.instances, name)
	p.mu.Unlock()
	p.config.Changed()
}

// Started is closed once an instance is in service, or it takes long: what can
// wait then no longer holds that up.
func (p *Publisher) Started() <-chan struct{} { return p.started }

// Problems returns, by instance, why it is not in service; empty if all are.
func (p *Publisher) Problems() map[string]error {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := map[string]error{}
	for name, state := range p.instances {
		if !state.serving {
			problems[name] = state.err
		}
	}
	return problems
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
