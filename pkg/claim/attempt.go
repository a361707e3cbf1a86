package claim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// Step is what an Attempt needs done next. The zero value is invalid.
type Step uint8

const (
	// AppendClaim: compare-and-swap Ledger.Append; tell Appended.
	AppendClaim Step = iota + 1
	// ReadRegistry: quorum-read the registered instances; tell Registered. The
	// claim may be written to instances that are known already at the same time:
	// it is durable, so it is in order (R2). Tell Written first then.
	ReadRegistry
	// WriteInstances: write the claim to every instance of Unwritten; tell Written.
	WriteInstances
	// ReadClusters: one linearizable read per cluster of Clusters; tell Read.
	// The own cluster's View must be quorum-read where the publisher takes it
	// from, not in one of its instances: another may have shown a newer one
	// already, and somebody granted on it (V04).
	ReadClusters
	// AwaitChange: wait for a change anywhere, a short while at most; then read again.
	AwaitChange
	// GrantClaim: compare-and-swap Ledger.Grant; tell Granted.
	GrantClaim
	// WithdrawClaim: compare-and-swap Ledger.Withdraw, unmirror once that was
	// acknowledged and not before (a grant may be under way); tell Withdrawn.
	WithdrawClaim
	// ConfirmWaiver: quorum-read the pod once more; tell Confirmed. Somebody may have
	// counted it if it became available before its claim was shown.
	ConfirmWaiver
	// Answer: the attempt has ended; see Outcome.
	Answer
)

// String returns the step's name, for logs and test traces.
func (s Step) String() string {
	names := []string{"Invalid", "AppendClaim", "ReadRegistry", "WriteInstances", "ReadClusters", "AwaitChange", "GrantClaim", "WithdrawClaim", "ConfirmWaiver", "Answer"}
	if int(s) < len(names) {
		return names[s]
	}
	return "Invalid"
}

// Covering is a budget that covers the pod.
type Covering struct {
	// Name is namespace/name.
	Name string
	// Clusters in scope, the own one included.
	Clusters []string
	// LastKnown holds, by cluster, the bounds it stated last: they bind while it cannot be read (R4, B03).
	LastKnown map[string][]budget.Bound
}

// Request is what an Attempt starts from.
type Request struct {
	Claim   Claim
	Budgets []Covering
	// Deadline ends waiting: the claim is withdrawn and the answer is no (R5).
	Deadline time.Time
	// Patience is how long a cluster that cannot be read, or that disagrees on
	// who takes part, is asked again before the answer is no. Waiting is always
	// safe; it bridges a publisher's hand-over.
	Patience time.Time
	// Waived, if not empty, says why the pod goes whatever its budgets say. It is
	// claimed for others to see, and granted without a look at them.
	Waived string
	// Confirm: it is waived because the pod is not available, which takes nothing that
	// a grant elsewhere has counted on. That must hold once the claim is shown.
	Confirm bool
}

// Outcome is how an Attempt ended.
type Outcome struct {
	// Allowed is true only after the grant was acknowledged by the ledger (R6).
	Allowed bool
	// Decision is the decisive budget's; its zero value if none was reached.
	Decision budget.Decision
	// Budget is the decisive budget's name.
	Budget string
	// Sentence says why, also where there was no decision.
	Sentence string
	// Repeated: the pod's disruption had been allowed before (R8).
	Repeated bool
	// Undecidable: denied for want of knowledge, not for want of budget.
	Undecidable bool
	// Cached: denied by the cached view alone, without a claim.
	Cached bool
	// Waived: allowed whatever the budgets say.
	Waived bool
	// GaveWay: denied although budget is free, for the sake of a pod that has waited longer.
	GaveWay bool
}

// Attempt takes one request from the claim to the answer. It is not safe for
// concurrent use. The caller performs the step that Next names and tells the
// result; the order of steps is the protocol.
type Attempt struct {
	request   Request
	claim     Claim
	step      Step
	unwritten map[string]bool
	written   map[string]bool
	rereading bool
	// first holds, per cluster, the claims of its first valid snapshot: S1 of rule R3.
	first    map[string]map[string]bool
	outcome  Outcome
	attempts int
}

// Begin starts an attempt.
func Begin(r Request) *Attempt {
	r.Claim.Budgets, r.Claim.Views = nil, nil
	for _, b := range r.Budgets {
		r.Claim.Budgets = append(r.Claim.Budgets, b.Name)
		r.Claim.Views = append(r.Claim.Views, ViewID(b.Clusters))
	}
	return &Attempt{request: r, claim: r.Claim, step: AppendClaim, written: map[string]bool{}, first: map[string]map[string]bool{}}
}

// Next returns the step to perform.
func (a *Attempt) Next() Step { return a.step }

// Claim returns the claim as it stands in the ledger.
func (a *Attempt) Claim() Claim { return a.claim }

// Outcome returns how the attempt ended; valid once Next returns Answer.
func (a *Attempt) Outcome() Outcome { return a.outcome }

// Rounds returns how many rounds of reads the attempt took.
func (a *Attempt) Rounds() int { return a.attempts }

// Announced reports whether the claim was sent to instances before.
func (a *Attempt) Announced() bool { return a.rereading || len(a.written) > 0 }

// Unwritten returns the instances that have not acknowledged the claim, sorted.
func (a *Attempt) Unwritten() []string { return slices.Sorted(maps.Keys(a.unwritten)) }

// Clusters returns the clusters to read, sorted.
func (a *Attempt) Clusters() []string {
	all := map[string]bool{a.claim.Cluster: true}
	for _, b := range a.request.Budgets {
		for _, c := range b.Clusters {
			all[c] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Appended tells what the ledger made of the claim (R2, R8). An error means
// that the claim may or may not stand there.
func (a *Attempt) Appended(c Claim, asked Asked, err error) {
	switch {
	case err != nil:
		a.refuse(WithdrawClaim, fmt.Sprintf("the claim on %s could not be made durable: %v", a.claim.Pod, err))
	case asked == Repeated:
		a.claim = c
		a.outcome = Outcome{Allowed: true, Repeated: true, Sentence: fmt.Sprintf("the disruption of %s has been allowed before and is not finished", c.Pod)}
		a.step = Answer
	case asked == Appended:
		a.claim = c
		a.step = ReadRegistry
	default:
		a.refuse(Answer, fmt.Sprintf("another request to disrupt %s is being decided", a.claim.Pod))
	}
}

// Registered tells the instances of the own store, quorum-read after the claim
// was durable: an instance that registers later lists it (R1, R2, H05).
func (a *Attempt) Registered(instances []string, err error) {
	if err != nil {
		a.refuse(WithdrawClaim, fmt.Sprintf("the instances of the own kvstore could not be read: %v", err))
		return
	}
	if len(instances) == 0 {
		a.refuse(WithdrawClaim, "no instance of the own kvstore is in service yet")
		return
	}
	stuck := ""
	next := map[string]bool{}
	for _, i := range instances {
		if a.written[i] {
			continue
		}
		// Re-read after a failed write: still registered means that somebody may read it (R2, H07).
		if a.rereading && a.unwritten[i] {
			stuck = i
		}
		next[i] = true
	}
	a.unwritten = next
	switch {
	case stuck != "":
		a.refuse(WithdrawClaim, fmt.Sprintf("the claim could not be written to instance %s of the own kvstore", stuck))
	case len(next) > 0:
		a.step = WriteInstances
	default:
		a.announced()
	}
}

// announced goes on once every instance shows the claim.
func (a *Attempt) announced() {
	switch {
	case a.request.Waived == "":
		a.step = ReadClusters
		return
	case a.request.Confirm:
		a.step = ConfirmWaiver
		return
	}
	a.waive()
}

// Confirmed tells whether the pod is still not available; otherwise its budgets are asked after all.
func (a *Attempt) Confirmed(still bool) {
	if still {
		a.waive()
		return
	}
	a.request.Waived = ""
	a.step = ReadClusters
}

func (a *Attempt) waive() {
	a.outcome = Outcome{Waived: true, Sentence: a.request.Waived}
	if len(a.request.Budgets) > 0 {
		a.outcome.Budget = a.request.Budgets[0].Name
	}
	a.step = GrantClaim
}

// Written tells which instances acknowledged the claim. Only when all have,
// the clusters are read (R2, R3, X01).
func (a *Attempt) Written(acknowledged []string) {
	for _, i := range acknowledged {
		a.written[i] = true
		delete(a.unwritten, i)
	}
	if a.step == ReadRegistry {
		// The registry may name others.
		return
	}
	if len(a.unwritten) > 0 {
		a.rereading = true
		a.step = ReadRegistry
		return
	}
	a.announced()
}

// Read tells the snapshots of one round, one per cluster of Clusters, and
// decides (R3 to R5).
func (a *Attempt) Read(snapshots []Snapshot, now time.Time) {
	a.attempts++
	for _, s := range snapshots {
		if s.Invalid == "" && a.first[s.Cluster] == nil {
			// Not "the first round": a cluster whose first read failed may hold older claims (X15).
			a.first[s.Cluster] = s.claimIDs()
		}
	}
	a.outcome = a.judge(snapshots)
	d := a.outcome.Decision
	switch {
	case d.Verdict == budget.Allow:
		a.step = GrantClaim
	case d.Verdict == budget.Wait && now.Before(a.request.Deadline):
		a.step = AwaitChange
	case d.Verdict == budget.Deny && a.outcome.Undecidable && now.Before(a.request.Patience):
		a.step = AwaitChange
	default:
		a.step = WithdrawClaim
	}
}

// Changed ends AwaitChange: read again, with the same S1.
func (a *Attempt) Changed() { a.step = ReadClusters }

// Granted tells whether the ledger acknowledged the grant. Anything else, an
// ambiguous answer included, is a no (R6).
func (a *Attempt) Granted(acknowledged bool) {
	a.step = Answer
	if acknowledged {
		a.outcome.Allowed = true
		a.claim.State = Granted
		return
	}
	a.outcome.Undecidable = true
	a.outcome.Sentence = fmt.Sprintf("the grant for %s could not be made durable", a.claim.Pod)
}

// Withdrawn ends WithdrawClaim, whether or not it succeeded: a pending claim
// that stays is withdrawn later by any replica (R7).
func (a *Attempt) Withdrawn() { a.step = Answer }

// Expired tells that the time for an answer is over, at any step.
func (a *Attempt) Expired() {
	switch a.step {
	case Answer:
	case AppendClaim:
		a.refuse(WithdrawClaim, fmt.Sprintf("the claim on %s could not be made durable in time", a.claim.Pod))
	case GrantClaim:
		// The sentence so far says that it would be allowed.
		a.refuse(WithdrawClaim, fmt.Sprintf("the grant for %s could not be made durable in time", a.claim.Pod))
	default:
		if a.outcome.Sentence == "" {
			a.outcome.Sentence = fmt.Sprintf("the disruption of %s could not be decided in time", a.claim.Pod)
			a.outcome.Undecidable = true
		}
		a.step = WithdrawClaim
	}
}

func (a *Attempt) refuse(next Step, sentence string) {
	a.outcome = Outcome{Undecidable: true, Sentence: sentence}
	a.step = next
}

// judge is rules R4 and R5 over all budgets of the pod: all must allow, one
// may deny, and what is neither waits.
func (a *Attempt) judge(snapshots []Snapshot) Outcome {
	var worst Outcome
	for _, b := range a.request.Budgets {
		o := Judged(b.Name, budget.Decide(a.question(b, snapshots)))
		if worst.Budget == "" || Severer(o, worst) {
			worst = o
		}
	}
	return worst
}

// Judged is the outcome that one budget's decision amounts to, before any grant.
func Judged(name string, d budget.Decision) Outcome {
	return Outcome{
		Decision: d, Budget: name, Sentence: d.Sentence,
		Undecidable: d.Verdict == budget.Deny && d.Reason != budget.Insufficient,
	}
}

// Severer reports whether a speaks before b where several budgets cover a pod:
// a refusal before a wait, a wait before permission, and among permissions the
// tightest.
func Severer(a, b Outcome) bool { return severity(a.Decision) > severity(b.Decision) }

// severity orders verdicts; among allowed ones the tightest budget speaks.
func severity(d budget.Decision) int {
	switch {
	case d.Verdict == budget.Allow:
		return -max(0, d.Left-d.Desired)
	case d.Verdict == budget.Wait:
		return 1
	case d.Reason == budget.Insufficient:
		return 3
	default:
		return 2
	}
}

func (a *Attempt) question(b Covering, snapshots []Snapshot) budget.Question {
	claims := a.counted(b, snapshots)
	return Question(b, a.claim.Pod, a.claim.UID, snapshots, claims)
}

// counted returns, by pod UID, how the claims that rule R4 counts stand to the
// own one: those of S1 that are still present. Later claims count us (F01), if
// their claimants read our cluster (V11, V15). A cluster without S1 yet counts in full.
func (a *Attempt) counted(b Covering, snapshots []Snapshot) map[string]budget.Claim {
	counted := map[string]budget.Claim{}
	for _, s := range snapshots {
		for _, c := range s.Claims {
			if s.Invalid != "" || c.ID == a.claim.ID {
				continue
			}
			if first := a.first[s.Cluster]; first != nil && !first[c.ID] && c.reads(b) {
				continue
			}
			class := budget.PendingLower
			switch {
			case c.State == Granted:
				class = budget.Granted
			case c.Before(a.claim):
				class = budget.PendingHigher
			}
			// Granted < PendingHigher < PendingLower: the strongest has the smallest value.
			if old, ok := counted[c.UID]; !ok || class < old {
				counted[c.UID] = class
			}
		}
	}
	return counted
}
