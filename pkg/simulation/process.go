package simulation

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/cache"

	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/ledger"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// process is one life of a controller replica: the real packages on simulated
// calls.
type process struct {
	*world
	cluster *cluster
	replica int
	name    string

	ctx    context.Context
	cancel context.CancelFunc
	killed chan struct{}
	dead   atomic.Bool
	ended  sync.WaitGroup

	clients   []*storeClient
	given     chan mesh.Clients
	own       map[string]mesh.Client
	peers     map[string]mesh.Client
	mesh      *mesh.Mesh
	ledgers   *ledger.Ledgers
	registry  *ledger.Registry
	decider   *decide.Decider
	publisher *publish.Publisher
	informer  informer
	// lists is what informers list by.
	lists  func(cache.ListerWatcher) cache.ListerWatcher
	kicked chan struct{}
	leads  bool
	// reads are the snapshots that this process took, for the witness.
	reads reads
	ids   atomic.Int64
	// cutUntil: no peer is reached; hungUntil: nothing gets through, as if it were paused.
	cutUntil, hungUntil time.Duration
}

func (p *process) isDead() bool { return p.dead.Load() }

// start begins a new life of a replica.
func (c *cluster) start(replica int) *process {
	c.lives++
	p := &process{
		world: c.world, cluster: c, replica: replica, name: fmt.Sprintf("%s-r%d.%d", c.name, replica+1, c.lives),
		killed: make(chan struct{}), given: make(chan mesh.Clients, 16), kicked: make(chan struct{}, 1),
		own: map[string]mesh.Client{}, peers: map[string]mesh.Client{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	c.processes = append(c.processes, p)
	c.wire(p)
	p.list()
	p.configure()
	p.ended.Go(func() { p.mesh.Follow(p.ctx, p.given) })
	p.ended.Go(p.reconcileLoop)
	p.ended.Go(func() { p.publisher.Reap(p.ctx) })
	return p
}

// wire puts the real packages together, as the controller's command does.
func (c *cluster) wire(p *process) {
	var err error
	p.mesh, err = mesh.New(mesh.Config{Cluster: c.name, Peers: "unused", OwnKVStore: "unused", Log: logr.Discard(), Changed: func(string) { p.kick() }})
	must(err)
	api := apiClient{process: p}
	p.ledgers = ledger.New(api, c.name)
	p.ledgers.Informed = p.informed
	p.registry = ledger.NewRegistry(api, "meshpdb")
	random := rand.New(rand.NewPCG(c.Seed, uint64(c.lives)))
	var mu sync.Mutex
	seams := c.broken(p)
	p.lists = seams.lists
	p.decider, err = decide.New(decide.Config{
		Cluster: c.name, Replica: p.name, Ledger: seams.ledger, Registry: seams.registry, Own: seams.own, Clusters: seams.clusters, Scopes: scopes{p},
		NewID: p.newID, Observe: p.observe,
		Random: func() float64 { mu.Lock(); defer mu.Unlock(); return random.Float64() },
	})
	must(err)
	p.publisher, err = publish.New(publish.Config{
		Cluster: c.name, Controller: p.name, Store: seams.store, Registry: seams.registration, Ledger: seams.ledger, Workload: seams.workload, NewID: p.newIncarnation, Log: logr.Discard(),
	})
	must(err)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// newIncarnation is called by one goroutine for each instance; together they must not count.
func (p *process) newIncarnation(instance string) string {
	return fmt.Sprintf("%s-%s-%d", p.name, instance, p.now())
}

func (p *process) newID() string { return fmt.Sprintf("%s-%d", p.name, p.ids.Add(1)) }

// configure tells the process of the instances and peers that stand.
func (p *process) configure() {
	clients := mesh.Clients{Own: map[string]mesh.Client{}, Peers: map[string]mesh.Client{}}
	for _, i := range p.cluster.instances {
		if i.gone {
			continue
		}
		if p.own[i.name].Client == nil {
			p.own[i.name] = p.newClient(toOwn, p.name+" own "+i.name, func() *instance {
				if i.up {
					return i
				}
				return nil
			})
		}
		clients.Own[i.name] = p.own[i.name]
	}
	for _, peer := range p.clusters {
		if peer == p.cluster {
			continue
		}
		if p.peers[peer.name].Client == nil {
			p.peers[peer.name] = p.newClient(toPeer, p.name+" peer "+peer.name, peer.anyInstance)
		}
		clients.Peers[peer.name] = p.peers[peer.name]
	}
	for name := range p.own {
		if clients.Own[name].Client == nil {
			delete(p.own, name)
		}
	}
	p.given <- clients
}

// anyInstance is what a Service leads to.
func (c *cluster) anyInstance() *instance {
	up := slices.DeleteFunc(slices.Clone(c.instances), func(i *instance) bool { return !i.up })
	if len(up) == 0 {
		return nil
	}
	return up[c.rand.IntN(len(up))]
}

// lead makes the process the publisher of its cluster.
func (p *process) lead() {
	if p.leads || p.isDead() {
		return
	}
	p.leads = true
	p.cluster.leader = p
	p.say("%s leads", p.name)
	p.ended.Go(func() { _ = p.publisher.Run(p.ctx) })
	p.kick()
}

// kill ends the process between any two steps.
func (p *process) kill() {
	if p.isDead() {
		return
	}
	p.dead.Store(true)
	close(p.killed)
	p.cancel()
	for _, k := range p.clients {
		k.disconnect()
	}
	p.cluster.processes = slices.DeleteFunc(p.cluster.processes, func(o *process) bool { return o == p })
	if p.cluster.leader == p {
		p.cluster.leader = nil
	}
	p.ended.Go(p.decider.Close)
}

// kick has the process look at its budgets again.
func (p *process) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// resync is how often budgets are looked at without a reason.
const resync = 20 * time.Second

// reconcileLoop stands for the controller: it publishes this cluster's part in
// every budget, as far as the informers tell.
func (p *process) reconcileLoop() {
	timer := time.NewTimer(resync)
	defer timer.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.kicked:
		case <-timer.C:
			timer.Reset(resync)
		}
		// Of several kicks at the same time one is enough.
		p.yield("look at the budgets")
		select {
		case <-p.kicked:
		default:
		}
		if p.publishing() {
			for b := range p.Budgets {
				p.yield("reconcile " + budgetName(b))
				p.reconcile(b)
			}
		}
	}
}

func (p *process) publishing() bool {
	select {
	case <-p.publisher.Started():
		return true
	default:
		return false
	}
}

func (p *process) reconcile(b int) {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	s := p.informedSpec(b)
	if s == nil {
		return
	}
	p.rememberBounds(ctx, s)
	_ = p.publisher.Set(ctx, p.share(s))
}

// informedSpec returns a budget as the informer shows it; nil if there is none.
func (p *process) informedSpec(b int) *spec {
	p.informer.mu.Lock()
	defer p.informer.mu.Unlock()
	return latest(p.informer.versions, b)
}

// share is this cluster's part in a budget, its pods by the informer.
func (p *process) share(s *spec) publish.Part {
	part := publish.Part{Namespace: namespace, Name: budgetName(s.index), Generation: s.generation}
	p.informer.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(p.informer.pods)) {
		seen := p.informer.pods[name]
		if !seen.pod.covered(s.index) {
			continue
		}
		state := wire.Available
		switch {
		case seen.terminating:
			state = wire.Terminating
		case !seen.ready:
			state = wire.NotReady
		}
		part.Pods = append(part.Pods, wire.Pod{UID: seen.pod.uid, Name: name, IPs: []string{seen.pod.ip}, Unavailable: state})
	}
	p.informer.mu.Unlock()
	part.Budget = s.part(part.Pods, p.expected(s.index), p.Exported)
	return part
}

// rememberBounds makes durable what other clusters state, before it is forgotten.
func (p *process) rememberBounds(ctx context.Context, s *spec) {
	for _, peer := range p.mesh.Peers() {
		bounds := p.mesh.Cached(peer, mesh.Query{Namespace: namespace, Budgets: []mesh.BudgetRef{{Name: budgetName(s.index), Service: service}}}).Budgets[fullName(s.index)].Bounds
		if len(bounds) == 0 || slices.Equal(s.lastKnown[peer], bounds) {
			continue
		}
		_, err := do[bool](ctx, p.apiCall(fmt.Sprintf("remember %v of %s for %s", bounds, peer, budgetName(s.index)), func() (any, error) {
			p.cluster.remember(s.index, peer, bounds)
			return true, nil
		}))
		if err != nil {
			return
		}
	}
}

func fullName(b int) string { return namespace + "/" + budgetName(b) }

// scopes reads which clusters take part, by quorum.
type scopes struct{ *process }

// Scope implements decide.Scopes.
func (s scopes) Scope(ctx context.Context, _, name string) ([]string, error) {
	return do[[]string](ctx, s.apiCall("scope of "+name, func() (any, error) {
		return s.cluster.spec(budgetIndex(name)).clusters, nil
	}))
}

func budgetIndex(name string) int {
	if strings.HasSuffix(name, "even") {
		return 1
	}
	return 0
}
