package simulation

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/history"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

const (
	namespace = "shop"
	service   = "db"
)

// cluster is the truth of one cluster.
type cluster struct {
	*world
	index     int
	name      string
	api       *apiServer
	pods      []*pod
	instances []*instance
	processes []*process
	leader    *process
	// sightings, specs and ledgers are what informers hear of, in order.
	sightings []sighting
	specs     []spec
	ledgers   []*v1alpha1.DisruptionLedger
	// free addresses, the one that was freed last first: it is reused at once.
	free    []string
	serials int
	// exported is the value of the Service record that was made last.
	exported string
}

// pod is one pod, from its creation to its end and beyond.
type pod struct {
	cluster       *cluster
	uid, name, ip string
	number        int
	ready         bool
	terminating   bool
	gone          bool
	// disrupted by a request that was allowed; involuntary: by anything else, or unready by itself.
	disrupted, involuntary bool
	// told is what the history was told last.
	told history.Kind
	// permits counts the requests by which the API server may yet delete it.
	permits int
}

func (p *pod) available() bool { return p.ready && !p.terminating && !p.gone }

// covered reports whether a budget covers the pod: the second one covers every other pod.
func (p *pod) covered(b int) bool { return b == 0 || p.number%2 == 0 }

// sighting is what a watch event of the API server says of a pod.
type sighting struct {
	pod                      *pod
	ready, terminating, gone bool
}

// spec is one version of a budget in one cluster.
type spec struct {
	index      int
	generation int64
	bound      budget.Bound
	clusters   []string
	// lastKnown holds what the status remembers of the other clusters' bounds.
	lastKnown map[string][]budget.Bound
}

func budgetName(b int) string { return [...]string{"db", "even"}[b] }

func newCluster(w *world, index int) *cluster {
	c := &cluster{world: w, index: index, name: fmt.Sprintf("c%d", index+1)}
	c.api = &apiServer{cluster: c, objects: map[string]client.Object{}}
	for n := range w.Instances {
		c.addInstance(n)
	}
	return c
}

func (c *cluster) addInstance(n int) *instance {
	i := &instance{world: c.world, cluster: c, name: fmt.Sprintf("%s-i%d", c.name, n+1)}
	c.instances = append(c.instances, i)
	return i
}

// populate makes the pods that stand at the beginning, and the budgets.
func (c *cluster) populate() {
	for n := range c.Pods {
		p := c.create(n)
		p.ready = true
		c.sighted(p)
	}
	for b := range c.Budgets {
		c.respec(spec{index: b, bound: c.bound(b, 0), clusters: c.scope(c.index)})
	}
}

// create makes a pod under the next name, or under that of the one it replaces.
func (c *cluster) create(number int) *pod {
	c.serials++
	name := fmt.Sprintf("db-%d", number)
	if !c.Stateful {
		name = fmt.Sprintf("db-%d-%d", number, c.serials)
	}
	ip := fmt.Sprintf("10.%d.0.%d", c.index, c.serials)
	if last := len(c.free) - 1; last >= 0 {
		ip, c.free = c.free[last], c.free[:last]
	}
	p := &pod{cluster: c, uid: fmt.Sprintf("%s-pod-%d", c.name, c.serials), name: name, ip: ip, number: number}
	c.pods = append(c.pods, p)
	c.world.pods[p.uid] = p
	c.sighted(p)
	return p
}

// sighted tells the informers, and Cilium, of a change of a pod.
func (c *cluster) sighted(p *pod) {
	c.tell(p)
	c.sightings = append(c.sightings, sighting{p, p.ready, p.terminating, p.gone})
	c.inform()
	c.later(c.delay(c.ExportLag), c.name+" exports endpoints", c.exportAll)
}

// tell records a change of a pod in the history.
func (c *cluster) tell(p *pod) {
	kind := history.Kind("")
	switch {
	case (p.gone || p.terminating) && p.disrupted:
		kind = history.Terminating
	case p.gone || p.terminating:
		kind = history.Lost
	case p.ready:
		kind = history.Available
	case p.told == history.Available:
		kind = history.Unavailable
	}
	if kind != "" && kind != p.told {
		c.record(p, kind)
		p.told = kind
	}
}

// inform lets informers hear of what is new, each in its time.
func (c *cluster) inform() {
	for _, p := range c.processes {
		p.informSoon()
	}
}

// respec makes a version of a budget durable.
func (c *cluster) respec(s spec) {
	s.generation = 1
	if last := c.spec(s.index); last != nil {
		s.generation = last.generation + 1
		s.lastKnown = last.lastKnown
	}
	c.specs = append(c.specs, s)
	c.recordSpec(c, &s)
	c.inform()
}

// spec returns the durable version of a budget.
func (c *cluster) spec(b int) *spec { return latest(c.specs, b) }

func latest(specs []spec, b int) *spec {
	for i := len(specs) - 1; i >= 0; i-- {
		if specs[i].index == b {
			return &specs[i]
		}
	}
	return nil
}

// remember writes into the status what another cluster states.
func (c *cluster) remember(b int, cluster string, bounds []budget.Bound) {
	s := *c.spec(b)
	if slices.Equal(s.lastKnown[cluster], bounds) {
		return
	}
	known := map[string][]budget.Bound{cluster: bounds}
	for name, other := range s.lastKnown {
		if name != cluster {
			known[name] = other
		}
	}
	s.lastKnown = known
	c.specs = append(c.specs, s)
	c.inform()
}

// remove deletes a pod as the API server does: it terminates, ends some time
// later, and its owner replaces it.
func (c *cluster) remove(p *pod, grace bool) {
	if p.terminating || p.gone {
		return
	}
	if grace {
		p.terminating = true
		c.sighted(p)
		if !c.Stateful {
			c.replace(p.number)
		}
		// While it terminates its readiness may well go first.
		c.later(c.between(100*time.Millisecond, 2500*time.Millisecond), p.uid+" ends", func() { c.end(p) })
		return
	}
	c.end(p)
	if !c.Stateful {
		c.replace(p.number)
	}
}

func (c *cluster) end(p *pod) {
	if p.gone {
		return
	}
	p.gone, p.ready = true, false
	c.free = append(c.free, p.ip)
	c.sighted(p)
	c.pods = slices.DeleteFunc(c.pods, func(o *pod) bool { return o == p })
	if c.Stateful {
		c.replace(p.number)
	}
}

func (c *cluster) replace(number int) {
	c.later(c.between(5*time.Millisecond, 300*time.Millisecond), fmt.Sprintf("%s replaces pod %d", c.name, number), func() {
		p := c.create(number)
		c.readySoon(p)
	})
}

func (c *cluster) readySoon(p *pod) {
	c.later(c.between(100*time.Millisecond, 3*time.Second), p.uid+" is ready", func() {
		if !p.gone && !p.ready {
			p.ready = true
			c.sighted(p)
		}
	})
}

// exportAll lets the clustermesh-apiserver of each instance export what stands.
func (c *cluster) exportAll() {
	backends := map[string]any{}
	for _, p := range c.pods {
		// A service record lists what is ready or serving.
		if p.ready && !p.gone {
			backends[p.ip] = struct{}{}
		}
	}
	value, err := json.Marshal(map[string]any{"cluster": c.name, "namespace": namespace, "name": service, "clusterID": c.index + 1, "frontends": struct{}{}, "backends": backends})
	if err != nil {
		panic(err)
	}
	c.exported = string(value)
	for _, i := range c.instances {
		if i.up {
			c.exportTo(i)
		}
	}
}

// export is what a clustermesh-apiserver does when it starts.
func (c *cluster) export(i *instance) {
	life := i.life
	c.later(c.between(10*time.Millisecond, 400*time.Millisecond), i.name+" exports", func() {
		if i.up && i.life == life {
			put(i, "cilium/cluster-config/"+c.name, fmt.Sprintf(`{"id":%d,"capabilities":{"syncedCanaries":true}}`, c.index+1))
			c.exportTo(i)
			put(i, "cilium/synced/"+c.name+"/cilium/state/services/v1", "now")
			i.changed()
		}
	})
}

func (c *cluster) exportTo(i *instance) {
	if c.exported != "" {
		put(i, "cilium/state/services/v1/"+c.name+"/"+namespace+"/"+service, c.exported)
		i.changed()
	}
}

func put(i *instance, key, value string) {
	if _, err := i.store.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		panic(err)
	}
}

// part returns what a process publishes of a budget, by what it knows.
func (s *spec) part(pods []wire.Pod, expected int, exported bool) wire.Budget {
	b := wire.Budget{UID: budgetName(s.index), Service: service, View: s.clusters, Expected: expected, Exported: exported}
	amount := fmt.Sprint(s.bound.Value)
	if s.bound.Percent {
		amount += "%"
	}
	if s.bound.Kind == budget.MinAvailable {
		b.MinAvailable = amount
	} else {
		b.MaxUnavailable = amount
	}
	return b
}

// expected returns how many pods of a budget the cluster runs.
func (w *world) expected(b int) int {
	if b == 1 {
		return (w.Pods + 1) / 2
	}
	return w.Pods
}

// ledgerChanged takes note of a durable write of the ledger.
func (c *cluster) ledgerChanged(before, after *v1alpha1.DisruptionLedger) {
	c.ledgers = append(c.ledgers, after)
	c.inform()
	c.witness.ledger(c, before, after)
}
