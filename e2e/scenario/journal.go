package scenario

import (
	"slices"
	"time"
)

// Verdict is what an eviction was answered. The zero value is invalid.
type Verdict uint8

const (
	// Granted: the pod was evicted.
	Granted Verdict = iota + 1
	// Refused: 429, ask again.
	Refused
	// Failed: an answer that a drain would give up on.
	Failed
	// Unanswered: nobody waited for the answer any longer.
	Unanswered
)

// Request is one eviction that was asked for, by the caller's clock.
type Request struct {
	Cluster string
	// Answered is when the answer came, or when nobody waited for it any longer.
	Asked, Answered time.Time
	Verdict         Verdict
}

// Took is the time from the question to the answer.
func (r Request) Took() time.Duration { return r.Answered.Sub(r.Asked) }

// Requests returns every request that was recorded, in the order of their
// answers. Those on pods that were gone already are left out.
func (t *Tally) Requests() []Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.requests)
}

// Abandon takes in a request whose answer nobody waits for any longer.
func (t *Tally) Abandon(cluster string, asked time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, Request{Cluster: cluster, Asked: asked, Answered: time.Now(), Verdict: Unanswered})
}

// note is called with the lock held.
func (t *Tally) note(cluster string, took time.Duration, verdict Verdict) {
	now := time.Now()
	t.requests = append(t.requests, Request{Cluster: cluster, Asked: now.Add(-took), Answered: now, Verdict: verdict})
}
