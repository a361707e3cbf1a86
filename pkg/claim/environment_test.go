package claim

import (
	"slices"
	"time"
)

// act does one thing that nobody of the protocol asked for: requests arrive,
// watch events are delivered, periodic work is due, and things fail.
func (w *world) act() {
	c := pickOne(w, w.clusters)
	p := pickOne(w, c.processes)
	i := pickOne(w, c.instances)
	actions := []struct {
		weight int
		do     func()
	}{
		{w.eager, func() { w.ask(c, p) }},
		{2, func() { w.askEverywhere() }},
		{20, func() { p.inform() }},
		{40, func() { c.leader().advance(i) }},
		{10, func() { c.leader().bury() }},
		{6, func() { c.leader().reap() }},
		{5, func() { c.leader().reconcile(i) }},
		{4, func() { i.cached = i.snapshot() }},
		{2, func() { c.older, c.olderRegistry = c.ledger.Clone(), slices.Clone(c.registry) }},
		{w.expire, func() { w.expireOne(p) }},
		{w.crash, func() { w.stats.crashes++; w.trace("%s crashes", p.name); p.crash() }},
		{w.lead, func() { w.stats.leads++; c.publishers = append(c.publishers, newPublisher(p)) }},
		{6, func() { c.retire() }},
		{w.wipe, func() { w.stats.wipes++; w.trace("%s is wiped", i.name); i.wipe() }},
		{w.cut, func() { i.cutLocal = w.rand.IntN(6) == 0; i.cutRemote = w.rand.IntN(6) == 0 }},
		{w.kill, func() { w.killOne(c) }},
		{w.flap, func() { w.flapOne(c) }},
		{sometimes(w.joins || w.tightens), func() { c.configure() }},
		{w.grow, func() { c.resize() }},
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := w.rand.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			a.do()
			return
		}
	}
}

func sometimes(on bool) int {
	if on {
		return 2
	}
	return 0
}

// ask is one eviction that reaches one replica's webhook. Some are repeated
// while the first is being decided or although it was allowed.
func (w *world) ask(c *member, p *process) {
	busy := func(t *pod) bool {
		return slices.ContainsFunc(c.processes, func(p *process) bool {
			return slices.ContainsFunc(p.runs, func(r *run) bool { return r.pod == t })
		})
	}
	var targets []*pod
	for _, t := range c.pods {
		claimed := slices.ContainsFunc(c.ledger.Claims, func(k Claim) bool { return k.UID == t.uid })
		if s := t.state(); !s.gone && (!busy(t) && !s.ended && (s.ready || w.rand.IntN(4) == 0) && !claimed || w.rand.IntN(6) == 0) {
			targets = append(targets, t)
		}
	}
	if len(targets) > 0 && len(p.runs) < 3 {
		p.request(pickOne(w, targets), 20*time.Second)
	}
}

func (w *world) askEverywhere() {
	for _, c := range w.clusters {
		w.ask(c, pickOne(w, c.processes))
	}
}

func (w *world) expireOne(p *process) {
	if len(p.runs) > 0 {
		pickOne(w, p.runs).expire()
	}
}

// leader returns one of the publishers that believe to lead; there is always one.
func (c *member) leader() *publisher {
	c.publishers = slices.DeleteFunc(c.publishers, func(b *publisher) bool { return !b.leads() })
	if len(c.publishers) == 0 {
		c.publishers = append(c.publishers, newPublisher(pickOne(c.world, c.processes)))
	}
	return pickOne(c.world, c.publishers)
}

// retire stops the publisher that has led longest, if there is another.
func (c *member) retire() {
	if len(c.publishers) > 1 {
		c.publishers[0].stopped = true
	}
}

func (w *world) killOne(c *member) {
	if p := pickOne(w, c.pods); !p.state().ended {
		w.stats.kills++
		w.trace("%s dies", p.uid)
		p.involuntary = true
		p.end()
	}
}

func (w *world) flapOne(c *member) {
	p := pickOne(w, c.pods)
	if !p.available() {
		return
	}
	w.trace("%s flaps", p.uid)
	p.involuntary = true
	p.become(podState{})
	w.later(func() {
		if !p.state().ended {
			p.involuntary = false
			p.become(podState{ready: true})
		}
	})
}

// end is the pod's termination. A replacement with another UID follows.
func (p *pod) end() {
	s := p.state()
	p.become(podState{ready: s.ready, ended: true})
	c := p.member
	c.later(func() { p.become(podState{ended: true, gone: true}) })
	c.later(func() {
		fresh := c.addPod(p.slot, false)
		c.later(func() {
			if !fresh.state().ended {
				fresh.become(podState{ready: true})
			}
		})
	})
}

// configure changes the cluster's objects: it learns of the newcomer, or its
// budget is tightened. Neither is ever taken back.
func (c *member) configure() {
	next := c.settings[len(c.settings)-1]
	if c.tightens {
		next.tight = true
	}
	if c.joins {
		next.view = c.clusters[c.size-1].settings[0].view
	}
	c.settings = append(c.settings, next)
}

// resize adds an instance or removes one for good.
func (c *member) resize() {
	there := slices.DeleteFunc(slices.Clone(c.instances), func(i *instance) bool { return i.gone })
	if len(there) < 2 || len(there) < 4 && c.rand.IntN(2) == 0 {
		c.addInstance()
		return
	}
	pickOne(c.world, there).gone = true
}
