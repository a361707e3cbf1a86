package claim

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// process is one controller replica. Its generation changes when it crashes,
// and with it dies everything that waited for an answer.
type process struct {
	*member
	name       string
	generation int
	// informer holds, by pod, how much of its history the process has seen.
	informer []int
	setting  int
	seen     uint64
	reaper   *Reaper
	runs     []*run
}

func newProcess(c *member, name string) *process {
	p := &process{member: c, name: name, reaper: NewReaper(c.pending, GrantTimeout)}
	for range c.pods {
		p.informer = append(p.informer, 1)
	}
	return p
}

// lives returns whether this generation of the process still runs.
func (p *process) lives() func() bool {
	generation := p.generation
	return func() bool { return p.generation == generation }
}

// crash forgets everything; the informer starts again from a list that may be old.
func (p *process) crash() {
	p.generation++
	p.reaper = NewReaper(p.pending, GrantTimeout)
	p.seen = 0
	for _, r := range p.runs {
		r.ended = true
		p.observer.revoke(r)
	}
	p.runs = nil
	for i := range p.informer {
		p.informer[i] = p.rand.IntN(p.informer[i] + 1)
	}
}

// inform delivers the next watch event of one pod, or of the configuration.
func (p *process) inform() {
	for len(p.informer) < len(p.pods) {
		p.informer = append(p.informer, 0)
	}
	i := p.rand.IntN(len(p.pods))
	p.informer[i] = min(p.informer[i]+1, len(p.pods[i].history))
	if p.rand.IntN(8) == 0 {
		p.setting = min(p.setting+1, len(p.settings)-1)
	}
}

var errLost = errors.New("connection lost")

// run drives one Attempt for one admission request.
type run struct {
	*process
	pod     *pod
	attempt *Attempt
	alive   func() bool
	// turn tells answers of an earlier step apart: an expired step's come too late.
	turn      int
	order     int
	first     map[string]map[string]bool
	snapshots []Snapshot
	early     []Snapshot
	registry  []string
	wrote     []*instance
	// ended: answered, or lost with its process. granted: the ledger took the
	// grant. authorised: the API server may still act. allowed: it was told so.
	ended, granted, authorised, allowed bool
}

func (p *process) request(target *pod, patience time.Duration) *run {
	r := &run{process: p, pod: target, alive: p.lives(), first: map[string]map[string]bool{}}
	request := Request{
		Claim:    Claim{ID: p.fresh("claim-"), UID: target.uid, Namespace: "shop", Pod: target.uid, Cluster: p.member.name},
		Deadline: p.now.Add(patience), Patience: p.now.Add(patience / 4),
	}
	if p.rand.IntN(3) == 0 {
		// A pod that was refused before keeps its ticket, however old: any order of claims is safe.
		request.Claim.Ticket = uint64(p.rand.IntN(int(p.seen) + 2))
	}
	for b := range p.budgets {
		if target.covered(b) {
			request.Claim.Budgets = append(request.Claim.Budgets, budgetName(b))
			request.Budgets = append(request.Budgets, Covering{Name: budgetName(b), Clusters: p.settings[p.setting].view})
		}
	}
	r.attempt = Begin(request)
	p.stats.requests++
	p.runs = append(p.runs, r)
	switch p.broken {
	case readBeforeWrite:
		r.read(r.attempt.Clusters(), func(s []Snapshot) { r.early = s; r.next() })
	case registryBeforeClaim:
		r.registry = p.olderRegistry
		r.next()
	default:
		r.next()
	}
	return r
}

// here returns whether the run still waits for the answers of this turn.
func (r *run) here() func() bool {
	turn := r.turn
	return func() bool { return r.alive() && r.turn == turn }
}

// expire is the end of the request's time, at any step.
func (r *run) expire() {
	if r.alive() && !r.ended && r.attempt.Next() != WithdrawClaim {
		r.trace("%s %s expires at %v", r.name, r.attempt.Claim().ID, r.attempt.Next())
		r.attempt.Expired()
		r.next()
	}
}

// next performs the step that the attempt asks for.
func (r *run) next() {
	r.turn++
	here := r.here()
	r.trace("%s %s of %s: %v", r.name, r.attempt.Claim().ID, r.pod.uid, r.attempt.Next())
	switch r.attempt.Next() {
	case AppendClaim:
		r.append(here)
	case ReadRegistry:
		if r.broken == registryBeforeClaim && r.registry != nil {
			r.attempt.Registered(r.registry, nil)
			r.next()
			return
		}
		r.announce(here)
	case WriteInstances:
		r.write(here)
	case ReadClusters:
		if r.order == 0 {
			r.order = r.observer.written()
		}
		if s := r.early; s != nil {
			r.early = nil
			r.judge(s)
			return
		}
		r.read(r.attempt.Clusters(), r.judge)
	case AwaitChange:
		r.stats.waits++
		r.later(func() {
			if here() {
				r.attempt.Changed()
				r.next()
			}
		})
	case GrantClaim:
		r.grant(here)
	case WithdrawClaim:
		r.withdraw(here)
	case Answer:
		r.observer.answered(r)
	}
}

func (r *run) append(here func() bool) {
	var stands Claim
	var asked Asked
	change := func(l *Ledger) bool {
		stands, asked = l.Append(r.attempt.Claim(), r.seen)
		if r.broken == repeatWithoutSwap && asked == Repeated {
			return false
		}
		return asked != Undecided
	}
	landed := func() {
		if asked == Repeated {
			r.observer.authorise(r)
		}
	}
	r.swap(here, change, landed, func(s swapped) {
		var err error
		if s == swapUnknown {
			err = errLost
		}
		r.attempt.Appended(stands, asked, err)
		r.next()
	})
}

// announce reads the registry and, in some runs, writes the claim at the same
// time to the instances that are known already.
func (r *run) announce(here func() bool) {
	var known, acknowledged []string
	if r.broken != writeOneInstance && r.rand.IntN(2) == 0 {
		for _, i := range r.instances {
			if r.rand.IntN(4) > 0 {
				known = append(known, i.name)
			}
		}
	}
	open := 1 + len(known)
	registered := func() { r.attempt.Registered(nil, errLost) }
	answered := func() {
		if open--; open == 0 {
			r.attempt.Written(acknowledged)
			registered()
			r.next()
		}
	}
	r.readRegistry(here, func(list []string) {
		registered = func() { r.attempt.Registered(list, nil) }
		answered()
	}, answered)
	r.put(here, known, func(name string) { acknowledged = append(acknowledged, name); answered() }, answered)
}

// put sends the claim to instances.
func (r *run) put(here func() bool, names []string, acknowledged func(name string), failed func()) {
	claim := r.attempt.Claim()
	for _, name := range names {
		i := r.instance(name)
		r.io(here, i.local, func() func() {
			i.put(claim)
			return func() {
				r.wrote = append(r.wrote, i)
				acknowledged(name)
			}
		}, failed)
	}
}

// write sends the claim to all instances and waits for every answer.
func (r *run) write(here func() bool) {
	names := r.attempt.Unwritten()
	var acknowledged []string
	if r.broken == writeOneInstance {
		acknowledged, names = names[1:], names[:1]
	}
	open := len(names)
	answered := func() {
		if open--; open == 0 {
			r.attempt.Written(acknowledged)
			r.next()
		}
	}
	r.put(here, names, func(name string) { acknowledged = append(acknowledged, name); answered() }, answered)
}

func (r *run) judge(snapshots []Snapshot) {
	if here := r.attempt.Next(); here != ReadClusters {
		return
	}
	r.observer.saw(r, snapshots)
	r.attempt.Read(r.distort(snapshots), r.now)
	r.seen = max(r.seen, MaxTicket(snapshots))
	r.next()
}

// read takes a snapshot of every cluster from any of its instances, each at a
// time of its own. The own view is quorum-read.
func (r *run) read(clusters []string, done func([]Snapshot)) {
	here := r.here()
	snapshots := make([]Snapshot, len(clusters))
	open := len(clusters)
	for at, name := range clusters {
		c := r.clusters[slices.IndexFunc(r.clusters, func(c *member) bool { return c.name == name })]
		got := func(s Snapshot) {
			snapshots[at] = s
			if open--; open == 0 {
				done(snapshots)
			}
		}
		r.readInstance(here, pickOne(r.world, c.instances), func(s Snapshot) {
			if c == r.member && r.broken != ownViewFromStore {
				r.readView(here, s, got)
				return
			}
			got(s)
		})
	}
}

// readView puts the view of the configuration object into the own snapshot.
func (r *run) readView(here func() bool, s Snapshot, got func(Snapshot)) {
	r.io(here, always, func() func() {
		view := r.settings[len(r.settings)-1].view
		return func() {
			s.Budgets = maps.Clone(s.Budgets)
			for name, report := range s.Budgets {
				report.View = view
				s.Budgets[name] = report
			}
			got(s)
		}
	}, func() { s.Invalid = "configuration not read"; got(s) })
}

func (r *run) grant(here func() bool) {
	change := func(l *Ledger) bool {
		ok := l.Grant(r.attempt.Claim().ID)
		return ok
	}
	landed := func() { r.observer.grant(r) }
	r.swap(here, change, landed, func(s swapped) {
		acknowledged := s == swapDone
		if r.broken == grantWithoutSwap && !acknowledged {
			acknowledged = true
			r.observer.grant(r)
		}
		r.attempt.Granted(acknowledged)
		if acknowledged {
			r.mirror()
		}
		r.next()
	})
}

// mirror shows the new state of a claim where it was written; nobody waits for it.
func (r *run) mirror() {
	claim := r.attempt.Claim()
	for _, i := range r.wrote {
		r.io(always, i.local, func() func() { i.put(claim); return func() {} }, func() {})
	}
}

func (r *run) withdraw(here func() bool) {
	id := r.attempt.Claim().ID
	r.swap(here, func(l *Ledger) bool { return l.Withdraw(id) }, nil, func(s swapped) {
		// Without the ledger's word the claim may still be granted by a swap under way.
		if s == swapDone || s == swapUnknown && r.broken == unmirrorUnacknowledged {
			r.unmirror(id)
		}
		r.attempt.Withdrawn()
		r.next()
	})
}

// unmirror deletes a claim that the ledger no longer holds from all stores.
func (p *process) unmirror(id string) {
	for _, i := range p.instances {
		p.io(always, i.local, func() func() { i.remove(id); return func() {} }, func() {})
	}
}
