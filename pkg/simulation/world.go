package simulation

import (
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// world is a whole mesh.
type world struct {
	Scenario
	*scheduler
	clusters []*cluster
	pods     map[string]*pod
	witness  *witness
	history  *history.Recorder
	stats    Stats
	broken   func(*process) seams
	// lives counts the lives of processes, requests those that were put.
	lives, requests int
	// quiet: nothing goes wrong any more.
	quiet bool
}

// Stats show that runs are not vacuous.
type Stats struct {
	Runs, Steps, Requests, Allowed, Denied, Undecidable, Cached, GaveWay, Repeated, Granted, Disrupted, Waits int
	Lost, Crashes, Wipes, Cuts, Hangs, Leads, Deaths, Flaps, Resets, Compactions, Specs, Joins, Replaced      int
	Severed, Full, Rested                                                                                     int
}

func (s *Stats) answer(o claim.Outcome) {
	switch {
	case o.Allowed:
		s.Allowed++
	case o.GaveWay:
		s.GaveWay++
	case o.Undecidable:
		s.Undecidable++
	default:
		s.Denied++
	}
	if o.Cached {
		s.Cached++
	}
}

func newWorld(s Scenario) *world {
	w := &world{Scenario: s, scheduler: newScheduler(s.Seed), pods: map[string]*pod{}, history: history.NewRecorder(time.Time{}, nil), broken: (*process).seams}
	w.witness = newWitness(w)
	w.after = w.witness.check
	w.network = w.fate
	for i := range s.Clusters {
		w.clusters = append(w.clusters, newCluster(w, i))
	}
	return w
}

func (w *world) linkDelay(l link) time.Duration {
	switch l {
	case toOwn:
		return w.ownDelay
	case toPeer:
		return w.peerDelay
	default:
		return w.apiDelay
	}
}

// scope returns the clusters that a budget names at first: all, but for the
// last one of them where it is to join.
func (w *world) scope(of int) []string {
	all := make([]string, 0, len(w.clusters))
	for i, c := range w.clusters {
		if !w.Joins || i < len(w.clusters)-1 || of == i {
			all = append(all, c.name)
		}
	}
	return all
}

// bound is what a cluster states, tightened by some pods.
func (w *world) bound(b, tightened int) budget.Bound {
	slots := max(0, w.Slots-tightened)
	total := w.Clusters * w.expected(b)
	switch w.Kind {
	case 0:
		return budget.Bound{Kind: budget.MaxUnavailable, Value: slots}
	case 1:
		return budget.Bound{Kind: budget.MinAvailable, Value: max(0, total-slots)}
	default:
		return budget.Bound{Kind: budget.MinAvailable, Value: max(0, (total-slots)*100/total), Percent: true}
	}
}

// least is how many pods of a budget must be available at any time, where no
// pod fails by itself and no budget is changed.
func (w *world) least(b int) int {
	return w.bound(b, 0).Desired(w.Clusters * w.expected(b))
}

// steady reports whether least must hold by the truth alone.
func (w *world) steady() bool { return !w.Joins && !w.has(Die, Flap, Tighten, Loosen) }

// begin starts all clusters, and waits until they are in service.
func (w *world) begin() {
	w.quiet = true
	for _, c := range w.clusters {
		c.populate()
		for _, i := range c.instances {
			i.begin()
		}
	}
	for _, c := range w.clusters {
		for r := range w.Replicas {
			c.start(r)
		}
		w.later(time.Millisecond, c.name+" elects", c.elect)
	}
	w.run(warmUp, w.failed)
	w.quiet = false
	for n, a := range w.Plan {
		w.at(warmUp+a.At, fmt.Sprintf("action %d: %s %x", n, a.What, a.Choice), func() bool { w.act(a); return true })
	}
}

// warmUp is how long a mesh takes to come up before anything happens to it.
const warmUp = 4 * time.Second

func (w *world) failed() bool { return w.witness.err != nil }

// act performs an action of the plan.
func (w *world) act(a Action) {
	choose := func(n int) int {
		c := int(a.Choice % uint64(n))
		a.Choice /= uint64(n)
		return c
	}
	c := w.clusters[choose(len(w.clusters))]
	var p *process
	if len(c.processes) > 0 {
		p = c.processes[choose(len(c.processes))]
	}
	length := time.Duration(choose(8000)) * time.Millisecond
	switch a.What {
	case Drain:
		w.drain(c, choose(1<<16))
	case Crash:
		if p != nil {
			w.stats.Crashes++
			w.crash(p, length/2)
		}
	case Cut:
		if p != nil {
			w.stats.Cuts++
			p.cut(length)
		}
	case Sever:
		if p != nil {
			w.stats.Severed++
			p.sever(choose(1<<16), length)
		}
	case Hang:
		if p != nil {
			w.stats.Hangs++
			p.hungUntil = w.now() + length
		}
	case Lead:
		w.handOver(c, length/2)
	case Die, Flap:
		w.failPod(a.What, c, choose(1<<16), length/2)
	case Tighten, Loosen, Join:
		w.respec(a.What, c, a)
	default:
		w.disturb(a.What, c, choose(1<<16), length/2)
	}
}

// disturb does something to an instance.
func (w *world) disturb(what What, c *cluster, choice int, length time.Duration) {
	var up []*instance
	for _, i := range c.instances {
		if i.up {
			up = append(up, i)
		}
	}
	if len(up) == 0 {
		return
	}
	i := up[choice%len(up)]
	switch what {
	case Wipe:
		w.stats.Wipes++
		i.stop()
		w.later(length, i.name+" begins again", func() {
			if !i.gone {
				i.begin()
			}
		})
	case Reset:
		w.stats.Resets++
		for _, k := range slices.Clone(i.clients) {
			k.disconnect()
		}
	case Compact:
		w.stats.Compactions++
		_, _ = i.store.Compact(&pb.CompactionRequest{Revision: i.store.Revision()})
	case Replace:
		w.stats.Replaced++
		fresh := c.addInstance(len(c.instances))
		fresh.begin()
		for _, p := range c.processes {
			p.configureSoon()
		}
		w.later(length, i.name+" is gone", func() {
			i.gone = true
			if i.up {
				i.stop()
			}
			for _, p := range c.processes {
				p.configureSoon()
			}
		})
	}
}

func (p *process) configureSoon() {
	p.later(p.between(time.Millisecond, 3*time.Second), p.name+" hears of instances", func() {
		if !p.isDead() {
			p.configure()
		}
	})
}

func (p *process) cut(length time.Duration) {
	p.cutUntil = p.now() + length
	for _, k := range p.clients {
		if k.link == toPeer {
			k.disconnect()
		}
	}
}

// sever cuts the process off one of its own instances, which others reach.
func (p *process) sever(choice int, length time.Duration) {
	own := slices.DeleteFunc(slices.Clone(p.clients), func(k *storeClient) bool { return k.link != toOwn })
	k := own[choice%len(own)]
	k.severedUntil = p.now() + length
	k.disconnect()
}

// crash kills a process; another life of it begins after a while.
func (w *world) crash(p *process, length time.Duration) {
	c, led := p.cluster, p.leads
	w.say("%s is killed", p.name)
	p.kill()
	w.later(length, c.name+" starts a replica", func() { c.start(p.replica) })
	if led {
		w.later(w.between(100*time.Millisecond, 8*time.Second), c.name+" elects", c.elect)
	}
}

// elect makes any replica the leader, if there is none.
func (c *cluster) elect() {
	if c.leader != nil && !c.leader.isDead() {
		return
	}
	if len(c.processes) == 0 {
		c.later(time.Second, c.name+" elects", c.elect)
		return
	}
	c.processes[c.rand.IntN(len(c.processes))].lead()
}

// handOver makes another replica the leader. The old one does not know for a
// while, and then ends, as a manager does that has lost its lease.
func (w *world) handOver(c *cluster, length time.Duration) {
	old := c.leader
	at := slices.IndexFunc(c.processes, func(p *process) bool { return p != old && !p.leads })
	if old == nil || at < 0 {
		return
	}
	w.stats.Leads++
	c.processes[at].lead()
	w.later(length, old.name+" has lost the lease", func() {
		if !old.isDead() {
			w.crash(old, 500*time.Millisecond)
		}
	})
}

// failPod lets a pod fail by itself.
func (w *world) failPod(what What, c *cluster, choice int, length time.Duration) {
	if len(c.pods) == 0 {
		return
	}
	p := c.pods[choice%len(c.pods)]
	if !p.available() {
		return
	}
	p.involuntary = true
	if what == Die {
		w.stats.Deaths++
		c.remove(p, choice>>8%2 == 0)
		return
	}
	w.stats.Flaps++
	p.ready = false
	c.sighted(p)
	w.later(length, p.uid+" is ready again", func() {
		if !p.gone {
			p.ready = true
			c.sighted(p)
		}
	})
}

// respec changes what a cluster states.
func (w *world) respec(what What, c *cluster, a Action) {
	if what == Join {
		c = w.clusters[min(int(a.Choice), len(w.clusters)-1)]
		w.stats.Joins++
	} else {
		w.stats.Specs++
	}
	for b := range w.Budgets {
		s := *c.spec(b)
		switch what {
		case Tighten:
			s.bound = w.bound(b, 1)
		case Loosen:
			s.bound = w.bound(b, 0)
		case Join:
			s.clusters = nil
			for _, other := range w.clusters {
				s.clusters = append(s.clusters, other.name)
			}
		}
		c.respec(s)
	}
	w.witness.dirty = true
}

// drain asks for a pod, again and again, until it may go or the one who asks gives up.
func (w *world) drain(c *cluster, choice int) {
	if len(c.pods) == 0 {
		return
	}
	p := c.pods[choice%len(c.pods)]
	choice /= 8
	tries := 1 + choice%8
	every := []time.Duration{100, 300, 1000, 5000}[choice/8%4] * time.Millisecond
	w.try(p, tries, every)
}

func (w *world) try(p *pod, tries int, every time.Duration) {
	c := p.cluster
	if p.gone || p.terminating || tries == 0 || w.quiet {
		return
	}
	again := func() {
		w.later(every/2+w.delay(every), "somebody asks again for "+p.uid, func() { w.try(p, tries-1, every) })
	}
	if len(c.processes) == 0 {
		again()
		return
	}
	c.processes[w.rand.IntN(len(c.processes))].ask(p, func(_ *request, o claim.Outcome) {
		if !o.Allowed || w.rand.IntN(4) == 0 {
			again()
		}
	})
}
