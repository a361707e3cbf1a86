package claim

import "slices"

// publisher is what the leading process of a cluster runs. After a fail-over
// the old one may go on for a while; incarnations fence it.
type publisher struct {
	*process
	leads   func() bool
	stopped bool
	// processed holds, by pod, how much of its history was seen, from the
	// informer or from a quorum read: it never goes back.
	processed []int
	config    int
	// news counts what there is to publish.
	news       int
	tombstones *Tombstones
	ends       []end
	syncers    map[*instance]*syncer
}

type end struct {
	claim string
	pod   int
}

// syncer keeps one instance in step.
type syncer struct {
	restore *Restore
	claims  []Claim
	busy    bool
	// told is the news of the last publication.
	told int
}

func newPublisher(p *process) *publisher {
	b := &publisher{process: p, tombstones: NewTombstones(), syncers: map[*instance]*syncer{}}
	lives := p.lives()
	b.leads = func() bool { return lives() && !b.stopped }
	return b
}

// advance does the next thing for one instance.
func (b *publisher) advance(i *instance) {
	s := b.syncers[i]
	if s == nil {
		s = &syncer{restore: NewRestore(b.fresh("life-"))}
		b.syncers[i] = s
	}
	if s.busy || !b.leads() {
		return
	}
	s.busy = true
	done := func() { s.busy = false; s.restore.Done() }
	doubt := func() { s.busy = false; s.restore.Doubt(b.fresh("life-")) }
	if i.gone || b.broken == deregisterUnreachable && i.cutLocal {
		b.deregister(i, func() { s.busy = false; b.forget(i) })
		return
	}
	if b.traced {
		b.trace("%s restores %s: step %d", b.name, i.name, s.restore.Next())
	}
	switch b.reordered(s.restore.Next()) {
	case PutIncarnation:
		incarnation := s.restore.Incarnation()
		b.io(b.leads, i.local, func() func() { i.incarnation = incarnation; return done }, doubt)
	case Register:
		add := func(list []string) []string {
			if slices.Contains(list, i.name) {
				return list
			}
			return append(list, i.name)
		}
		b.swapRegistry(b.leads, add, done, doubt)
	case ListDurable:
		b.list(s, done, doubt)
	case WriteRecords:
		b.publish(i, s, true, done, doubt)
	case PutMarker:
		b.guarded(i, s, func() { i.marker = s.restore.Incarnation() }, func() { b.stats.restores++; done() }, doubt)
	case Serving:
		b.learn(b.informer)
		// Without news a publication is only a heartbeat that notices a wipe.
		if s.told == b.news && b.rand.IntN(5) > 0 {
			s.busy = false
			return
		}
		b.publish(i, s, false, done, doubt)
	}
}

// reordered is the order of rule R1, unless the world breaks it.
func (b *publisher) reordered(s RestoreStep) RestoreStep {
	swap := func(x, y RestoreStep) RestoreStep {
		switch s {
		case x:
			return y
		case y:
			return x
		}
		return s
	}
	switch b.broken {
	case markerBeforeRecords:
		return swap(WriteRecords, PutMarker)
	case listBeforeRegister:
		return swap(Register, ListDurable)
	}
	return s
}

func (b *publisher) deregister(i *instance, done func()) {
	b.swapRegistry(b.leads, func(list []string) []string {
		return slices.DeleteFunc(list, func(n string) bool { return n == i.name })
	}, done, done)
}

// forget ends the existence of an instance that nobody can read any more.
func (b *publisher) forget(i *instance) {
	if at := slices.Index(b.instances, i); at >= 0 && i.gone && !slices.Contains(b.registry, i.name) {
		b.instances = slices.Delete(b.instances, at, at+1)
		b.removed = append(b.removed, i)
	}
}

// guarded writes in a transaction on the incarnation.
func (b *publisher) guarded(i *instance, s *syncer, write func(), done, doubt func()) {
	incarnation := s.restore.Incarnation()
	b.io(b.leads, i.local, func() func() {
		if i.incarnation != incarnation && b.broken != incarnationUnguarded {
			return func() { b.stats.fenced++; doubt() }
		}
		write()
		return done
	}, doubt)
}

// gather calls done after n successes, or doubt after n answers with a failure among them.
func gather(n int, done, doubt func()) (ok, failed func()) {
	bad := false
	ok = func() {
		if n--; n > 0 {
			return
		}
		if bad {
			doubt()
		} else {
			done()
		}
	}
	failed = func() { bad = true; ok() }
	return ok, failed
}

// list reads claims, pods and configuration by quorum.
func (b *publisher) list(s *syncer, done, doubt func()) {
	ok, failed := gather(2, done, doubt)
	b.readLedger(b.leads, func(l Ledger, _ int) {
		switch b.broken {
		case restoreFromCache:
			l = b.older
		case claimsNotRestored:
			l = Ledger{}
		}
		s.claims = l.Claims
		ok()
	}, failed)
	b.io(b.leads, always, func() func() {
		var seen []int
		for _, p := range b.pods {
			seen = append(seen, len(p.history))
		}
		config := len(b.settings) - 1
		return func() {
			if b.broken != listPodsFromCache {
				b.learn(seen)
			}
			b.config = max(b.config, config)
			ok()
		}
	}, failed)
}

// learn takes over what a read or the informer saw, unless older than known.
func (b *publisher) learn(seen []int) {
	for i, n := range seen {
		if i == len(b.processed) {
			b.processed = append(b.processed, 0)
		}
		if n > b.processed[i] {
			b.processed[i] = n
			b.news++
		}
	}
}

// publish writes what the publisher knows now: every record on its own, in
// any order, and one publication at a time.
func (b *publisher) publish(i *instance, s *syncer, all bool, done, doubt func()) {
	if b.setting > b.config {
		b.config = b.setting
		b.news++
	}
	var shown []string
	for _, e := range b.ends {
		hidden := b.known(e.pod).ended
		if b.broken == shownWhenUnready {
			hidden = !b.known(e.pod).ready || hidden
		}
		if hidden {
			shown = append(shown, e.claim)
		}
	}
	s.told = b.news
	records := b.budgets
	if all {
		records++
	}
	ok, failed := gather(records, func() {
		for _, id := range shown {
			b.tombstones.Shown(id, i.name)
		}
		done()
	}, doubt)
	for n := range b.budgets {
		report := b.report(n)
		b.guarded(i, s, func() { i.reports[budgetName(n)] = report }, ok, failed)
	}
	if all {
		claims := s.claims
		b.guarded(i, s, func() {
			for _, c := range claims {
				i.put(c)
			}
		}, ok, failed)
	}
}

func (b *publisher) known(pod int) podState {
	if pod >= len(b.processed) || b.processed[pod] == 0 {
		return podState{}
	}
	return b.pods[pod].history[b.processed[pod]-1]
}

func (b *publisher) report(n int) Report {
	setting := b.settings[b.config]
	r := Report{Service: "shop/db", Expected: b.expected(b.index, n), View: setting.view}
	r.Bounds = append(r.Bounds, b.bound(n, setting.tight))
	for i, p := range b.pods {
		if s := b.known(i); p.covered(n) && i < len(b.processed) && b.processed[i] > 0 && !s.gone {
			r.Pods = append(r.Pods, Pod{UID: p.uid, Available: s.ready && !s.ended})
		}
	}
	return r
}

// bury looks for ended pods with granted claims and drops what may be dropped (R9).
func (b *publisher) bury() {
	b.readLedger(b.leads, func(l Ledger, _ int) {
		for _, c := range l.Claims {
			if c.State == Granted {
				b.confirm(c)
			}
		}
	}, func() {})
	for _, id := range b.tombstones.Droppable() {
		b.drop(id)
	}
}

// confirm finds out whether the pod of a claim has ended. That the informer shows
// its end is enough, for an end is never taken back.
func (b *publisher) confirm(c Claim) {
	pod := b.find(c.UID)
	found := func(s podState, seen int) {
		if s.ended && b.broken == dropAtEnd || !b.known(pod).ready && b.broken == dropUnlisted {
			b.drop(c.ID)
			return
		}
		if !s.ended {
			return
		}
		b.tombstones.Ended(c.ID)
		if e := (end{c.ID, pod}); !slices.Contains(b.ends, e) {
			b.ends = append(b.ends, e)
			b.news++
		}
		if b.broken != shownWhenUnready {
			for len(b.processed) <= pod {
				b.processed = append(b.processed, 0)
			}
			b.processed[pod] = max(b.processed[pod], seen)
		}
		b.readRegistry(b.leads, func(list []string) {
			if b.broken == shownByOne {
				list = list[:min(1, len(list))]
			}
			b.tombstones.Registered(c.ID, list)
		}, func() {})
	}
	if known := b.known(pod); known.ended && b.rand.IntN(2) == 0 {
		found(known, b.processed[pod])
		return
	}
	b.lookUp(pod, found)
}

// lookUp is a quorum read of one pod.
func (b *publisher) lookUp(pod int, done func(podState, int)) {
	b.io(b.leads, always, func() func() {
		s, seen := b.pods[pod].state(), len(b.pods[pod].history)
		return func() { done(s, seen) }
	}, func() {})
}

func (b *publisher) drop(id string) {
	b.swap(b.leads, func(l *Ledger) bool { return l.Drop(id) }, nil, func(s swapped) {
		switch s {
		case swapDone:
			b.trace("%s dropped %s", b.name, id)
			b.stats.drops++
			b.unmirror(id)
			fallthrough
		case swapUnchanged:
			b.tombstones.Forget(id)
			b.ends = slices.DeleteFunc(b.ends, func(e end) bool { return e.claim == id })
		}
	})
}

// reap withdraws and releases what was left behind (R7, R10).
func (b *publisher) reap() {
	b.readLedger(b.leads, func(l Ledger, _ int) {
		withdraw, release := b.reaper.Observe(l.Claims, b.now)
		for _, c := range withdraw {
			b.remove(c.ID, func(l *Ledger) bool { return l.Withdraw(c.ID) }, &b.stats.withdrawn)
		}
		for _, c := range release {
			pod := b.find(c.UID)
			free := func() { b.remove(c.ID, func(l *Ledger) bool { return l.Release(c.ID, c.Seq) }, &b.stats.releases) }
			if b.broken == releaseOnStaleLook {
				if !b.known(pod).ended {
					free()
				}
				continue
			}
			b.lookUp(pod, func(s podState, _ int) {
				if !s.ended {
					free()
				}
			})
		}
	}, func() {})
}

func (b *publisher) remove(id string, change func(*Ledger) bool, count *int) {
	b.swap(b.leads, change, nil, func(s swapped) {
		if s == swapDone || s == swapUnknown && b.broken == unmirrorUnacknowledged || s == swapUnchanged && b.broken == unmirrorRefused {
			b.trace("%s removed %s", b.name, id)
			*count++
			b.unmirror(id)
		}
	})
}

// reconcile compares an instance with the ledger, store first (R11).
func (b *publisher) reconcile(i *instance) {
	s := b.syncers[i]
	if s == nil || s.restore.Next() != Serving {
		return
	}
	var durable, stored []Claim
	readStored := func(next func()) {
		b.io(b.leads, i.local, func() func() {
			claims := slices.Clone(i.claims)
			return func() { stored = claims; next() }
		}, func() {})
	}
	readDurable := func(next func()) {
		b.readLedger(b.leads, func(l Ledger, _ int) { durable = l.Claims; next() }, func() {})
	}
	if b.broken == durableFirst {
		readDurable(func() { readStored(func() { b.repair(i, s, stored, durable) }) })
		return
	}
	readStored(func() { readDurable(func() { b.repair(i, s, stored, durable) }) })
}

func (b *publisher) repair(i *instance, s *syncer, stored, durable []Claim) {
	remove, write := Compare(stored, durable)
	nothing := func() {}
	for _, id := range remove {
		deletion := func() { i.remove(id) }
		if b.broken == reconcileByPod {
			at := slices.IndexFunc(stored, func(c Claim) bool { return c.ID == id })
			deletion = func() { i.removePod(stored[at].UID) }
		}
		b.guarded(i, s, deletion, nothing, nothing)
	}
	for _, c := range write {
		b.guarded(i, s, func() { i.put(c) }, nothing, nothing)
	}
}
