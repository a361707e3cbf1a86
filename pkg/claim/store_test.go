package claim

import (
	"fmt"
	"slices"
)

// member is one cluster: its API objects, its store instances, its controllers.
type member struct {
	*world
	index   int
	name    string
	pods    []*pod
	ledger  Ledger
	version int
	// older and olderRegistry are what an informer that lags still shows.
	older         Ledger
	olderRegistry []string
	registry      []string
	regVersion    int
	settings      []setting
	instances     []*instance
	// removed instances are known to whoever has read an older registry.
	removed    []*instance
	processes  []*process
	publishers []*publisher
}

// setting is one generation of the configuration objects.
type setting struct {
	view  []string
	tight bool
}

// pod with everything that has ever been true of it, oldest first.
type pod struct {
	uid     string
	member  *member
	slot    int
	history []podState

	// Known to the observer only.
	auths                  int
	disrupted, involuntary bool
}

type podState struct{ ready, ended, gone bool }

func (p *pod) state() podState { return p.history[len(p.history)-1] }

func (p *pod) available() bool { s := p.state(); return s.ready && !s.ended }

func (p *pod) become(s podState) { p.history = append(p.history, s) }

func (p *pod) covered(b int) bool { return b == 0 || p.slot%2 == 0 }

// instance is one store of a cluster; nothing in it survives a wipe.
type instance struct {
	name                string
	member              *member
	incarnation, marker string
	claims              []Claim
	reports             map[string]Report
	// cutLocal and cutRemote: who cannot reach the instance now.
	cutLocal, cutRemote, gone bool
	// cached is what a watch cache that lags shows; only broken readers use it.
	cached Snapshot
}

func newMember(w *world, index int) *member {
	c := &member{world: w, index: index, name: fmt.Sprintf("c%d", index)}
	for slot := range w.scenario.pods {
		c.addPod(slot, true)
	}
	for range w.surge {
		c.addPod(0, true)
	}
	first := setting{}
	for i := range w.size {
		if !w.joins || i < w.size-1 || index == w.size-1 {
			first.view = append(first.view, fmt.Sprintf("c%d", i))
		}
	}
	c.settings = []setting{first}
	for range w.scenario.instances {
		c.addInstance()
	}
	for i := range 2 {
		c.processes = append(c.processes, newProcess(c, fmt.Sprintf("%s/%d", c.name, i)))
	}
	c.publishers = []*publisher{newPublisher(c.processes[0])}
	return c
}

func (c *member) addPod(slot int, ready bool) *pod {
	p := &pod{uid: c.fresh(c.name + "-p"), member: c, slot: slot}
	p.become(podState{ready: ready})
	c.pods = append(c.pods, p)
	return p
}

func (c *member) addInstance() {
	c.instances = append(c.instances, &instance{name: c.fresh(c.name + "-i"), member: c, reports: map[string]Report{}})
}

func (c *member) find(uid string) int {
	return slices.IndexFunc(c.pods, func(p *pod) bool { return p.uid == uid })
}

func (c *member) instance(name string) *instance {
	all := slices.Concat(c.instances, c.removed)
	return all[slices.IndexFunc(all, func(i *instance) bool { return i.name == name })]
}

func (i *instance) local() bool { return !i.cutLocal && !i.gone }

func (i *instance) remote() bool { return !i.cutRemote && !i.gone }

func (i *instance) wipe() {
	i.incarnation, i.marker, i.claims, i.reports = "", "", nil, map[string]Report{}
}

func (i *instance) put(c Claim) {
	if at := slices.IndexFunc(i.claims, func(o Claim) bool { return o.ID == c.ID }); at >= 0 {
		i.claims[at] = c
		return
	}
	i.claims = append(i.claims, c)
}

func (i *instance) remove(id string) {
	i.claims = slices.DeleteFunc(i.claims, func(o Claim) bool { return o.ID == id })
}

func (i *instance) removePod(uid string) {
	i.claims = slices.DeleteFunc(i.claims, func(o Claim) bool { return o.UID == uid })
}

// snapshot is the linearizable read of rule R3.
func (i *instance) snapshot() Snapshot {
	s := Snapshot{Cluster: i.member.name, Claims: slices.Clone(i.claims), Budgets: map[string]Report{}}
	for b := range i.member.budgets {
		if r, ok := i.reports[budgetName(b)]; ok {
			s.Budgets[budgetName(b)] = r
		}
	}
	readable := i.marker != "" && (i.member.sticky || i.marker == i.incarnation)
	if !readable && i.member.broken != ignoreMarker {
		s.Invalid, s.Claims = "no marker", nil
	}
	return s
}

// readLedger is a quorum read.
func (c *member) readLedger(alive func() bool, done func(Ledger, int), fail func()) {
	c.io(alive, always, func() func() {
		ledger, version := c.ledger.Clone(), c.version
		return func() { done(ledger, version) }
	}, fail)
}

type swapped uint8

const (
	swapDone swapped = iota + 1
	swapUnchanged
	swapUnknown
)

// swap changes the ledger by compare-and-swap, until the change no longer
// applies or its fate is unknown. landed happens at the instant of the swap.
func (c *member) swap(alive func() bool, change func(*Ledger) bool, landed func(), done func(swapped)) {
	unknown := func() { done(swapUnknown) }
	c.readLedger(alive, func(l Ledger, version int) {
		if !change(&l) {
			done(swapUnchanged)
			return
		}
		c.io(alive, always, func() func() {
			if c.version != version {
				return func() { c.swap(alive, change, landed, done) }
			}
			c.ledger, c.version = l, version+1
			if landed != nil {
				landed()
			}
			return func() { done(swapDone) }
		}, unknown)
	}, unknown)
}

// swapRegistry adds or removes an instance by compare-and-swap.
func (c *member) swapRegistry(alive func() bool, change func([]string) []string, done func(), fail func()) {
	c.io(alive, always, func() func() {
		list, version := change(slices.Clone(c.registry)), c.regVersion
		return func() {
			c.io(alive, always, func() func() {
				if c.regVersion != version {
					return func() { c.swapRegistry(alive, change, done, fail) }
				}
				c.registry, c.regVersion = list, version+1
				return done
			}, fail)
		}
	}, fail)
}

func (c *member) readRegistry(alive func() bool, done func([]string), fail func()) {
	c.io(alive, always, func() func() {
		list := slices.Clone(c.registry)
		return func() { done(list) }
	}, fail)
}
