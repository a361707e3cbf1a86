package claim

import "slices"

// Ledger is the durable record of a cluster's claims: an object in the
// cluster's own Kubernetes API, changed by compare-and-swap only and read by
// quorum. Its methods are the moves; the caller makes each one durable by
// swapping the whole value.
type Ledger struct {
	// Ticket is the largest ticket ever seen here.
	Ticket uint64
	Claims []Claim
}

// LastTicket is the largest that records may carry (wire). Whoever draws it, by
// mistake or to do harm, ends the order of arrival and nothing else.
const LastTicket = 1 << 62

// Asked is what became of a request to claim a pod. The zero value is invalid.
type Asked uint8

const (
	// Appended: a new pending claim stands in the ledger.
	Appended Asked = iota + 1
	// Repeated: the pod's claim is granted already; the request is allowed (R8).
	Repeated
	// Undecided: another request for the same pod is being decided; deny (R8).
	Undecided
)

// Append adds c as a pending claim (R2), or recognises a repeated request
// (R8). seen is the largest ticket that the claimant has met anywhere; a claim
// that brings a ticket keeps it if it is no larger than the next one: so a pod
// that was refused before does not lose its place (protocol section 4).
// The returned claim is the one that stands in the ledger.
func (l *Ledger) Append(c Claim, seen uint64) (Claim, Asked) {
	if i := slices.IndexFunc(l.Claims, func(o Claim) bool { return o.UID == c.UID }); i >= 0 {
		if l.Claims[i].State != Granted {
			return l.Claims[i], Undecided
		}
		// The swap restarts T: a release that was due now fails on its seq (X19).
		l.Claims[i].Seq++
		return l.Claims[i], Repeated
	}
	// Beyond LastTicket there is no further one: those that share it are ordered by cluster and ID.
	next := min(max(l.Ticket, seen)+1, LastTicket)
	if c.Ticket == 0 || c.Ticket > next {
		c.Ticket = next
	}
	l.Ticket = min(max(l.Ticket, seen, c.Ticket), LastTicket)
	c.State, c.Seq = Pending, 0
	l.Claims = append(l.Claims, c)
	return c, Appended
}

// Grant turns a pending claim into a granted one (R6). It reports false if the
// claim is not there any more or not pending: then the answer is "denied".
func (l *Ledger) Grant(id string) bool {
	i := l.find(id)
	if i < 0 || l.Claims[i].State != Pending {
		return false
	}
	l.Claims[i].State = Granted
	return true
}

// Withdraw removes a pending claim (R7). A granted one stays.
func (l *Ledger) Withdraw(id string) bool {
	i := l.find(id)
	if i < 0 || l.Claims[i].State != Pending {
		return false
	}
	l.Claims = slices.Delete(l.Claims, i, i+1)
	return true
}

// Release removes a granted claim that came to nothing (R10), unless it was
// asked for again since the releasing process saw seq.
func (l *Ledger) Release(id string, seq uint64) bool {
	i := l.find(id)
	if i < 0 || l.Claims[i].State != Granted || l.Claims[i].Seq != seq {
		return false
	}
	l.Claims = slices.Delete(l.Claims, i, i+1)
	return true
}

// Drop removes the claim of a pod whose end every instance shows (R9).
func (l *Ledger) Drop(id string) bool {
	i := l.find(id)
	if i < 0 || l.Claims[i].State != Granted {
		return false
	}
	l.Claims = slices.Delete(l.Claims, i, i+1)
	return true
}

// Clone returns a copy that shares nothing.
func (l Ledger) Clone() Ledger {
	l.Claims = slices.Clone(l.Claims)
	return l
}

func (l *Ledger) find(id string) int {
	return slices.IndexFunc(l.Claims, func(c Claim) bool { return c.ID == id })
}
