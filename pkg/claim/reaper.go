package claim

import "time"

const (
	// PendingTimeout is how long a pending claim stays before any replica may
	// withdraw it (R7). It needs no agreement on clocks: the grant is a
	// compare-and-swap, so one that is withdrawn too early is only refused. It is
	// longer than any decision may take, and short because a budget of one is held
	// by it when a controller dies between claim and answer.
	PendingTimeout = 10 * time.Second
	// GrantTimeout is T: how long after the last "allowed" the API server may
	// still delete the pod. Kubernetes' disruption controller assumes 2
	// minutes (DeletionTimeout); conflicts and request timeouts fit in 5.
	GrantTimeout = 5 * time.Minute
)

// Reaper watches claims that were left behind. It measures with the caller's
// monotonic clock since this process first saw a claim at a seq, so it never
// compares clocks (R7, R10).
type Reaper struct {
	pending, granted time.Duration
	seen             map[string]sighting
}

type sighting struct {
	state State
	seq   uint64
	since time.Time
}

// NewReaper returns a Reaper with the given timeouts, normally
// PendingTimeout and GrantTimeout.
func NewReaper(pending, granted time.Duration) *Reaper {
	return &Reaper{pending: pending, granted: granted, seen: map[string]sighting{}}
}

// Observe tells the ledger's claims at now. It returns the pending claims to
// withdraw, and the granted ones to release if a quorum read then finds their
// pod alive and not terminating.
func (r *Reaper) Observe(claims []Claim, now time.Time) (withdraw, release []Claim) {
	current := make(map[string]sighting, len(claims))
	for _, c := range claims {
		s, known := r.seen[c.ID]
		if !known || s.state != c.State || s.seq != c.Seq {
			s = sighting{state: c.State, seq: c.Seq, since: now}
		}
		current[c.ID] = s
		switch age := now.Sub(s.since); {
		case c.State == Pending && age >= r.pending:
			withdraw = append(withdraw, c)
		case c.State == Granted && age >= r.granted:
			release = append(release, c)
		}
	}
	r.seen = current
	return withdraw, release
}
