package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
)

// MaxSize is the largest value of a record, in bytes. Writers refuse to exceed
// it and readers refuse to decode more: a peer cannot make us allocate.
const MaxSize = 100 << 10

// Incarnation is one life of one store instance. Every write of a publisher is
// guarded by it, so a publisher that lost its place cannot write (rule R1 a).
//
// WARNING - STABLE API.
type Incarnation struct {
	// ID is random and never used again.
	ID string `json:"id"`
	// Controller is the name of the publishing controller, for people.
	Controller string `json:"controller,omitempty"`
}

// Marker declares the instance complete (rule R1 e).
//
// WARNING - STABLE API.
type Marker struct {
	// Incarnation is the ID that was restored; a marker of another one is void.
	Incarnation string `json:"incarnation"`
}

// Budget is a cluster's part in one budget.
//
// WARNING - STABLE API.
type Budget struct {
	// UID of the MeshPodDisruptionBudget in its cluster.
	UID string `json:"uid,omitempty"`
	// Service whose selector selects the pods.
	Service string `json:"service"`
	// MinAvailable or MaxUnavailable as its user wrote it: "2" or "60%".
	MinAvailable   string `json:"minAvailable,omitempty"`
	MaxUnavailable string `json:"maxUnavailable,omitempty"`
	// Expected is the number of pods that the owners in this cluster ask for.
	Expected int `json:"expected"`
	// View is the sorted set of clusters that take part, as this cluster sees it (rule R4).
	View []string `json:"view"`
	// Exported: Cilium exports the Service's endpoints, which may then contradict the pod records.
	Exported bool `json:"exported,omitempty"`
	// Undecided says why this cluster cannot answer for the budget.
	Undecided string `json:"undecided,omitempty"`
	// Tombstone: the budget was deleted here.
	Tombstone bool `json:"tombstone,omitempty"`
}

// Unavailability is why a pod does not count as available. Empty: it does.
//
// WARNING - STABLE API. Readers take any other value for "unavailable".
type Unavailability string

// The reasons known to version 1.
const (
	Available   Unavailability = ""
	NotReady    Unavailability = "NotReady"
	Terminating Unavailability = "Terminating"
	Terminal    Unavailability = "Terminal"
	// ProcessExited and OutOfMemory are deaths seen before the kubelet reports them.
	ProcessExited Unavailability = "ProcessExited"
	OutOfMemory   Unavailability = "OutOfMemory"
)

// Pod is one pod of a budget.
//
// WARNING - STABLE API.
type Pod struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
	// IPs of the pod, to find it in Cilium's exported endpoints.
	IPs         []string       `json:"ips,omitempty"`
	Unavailable Unavailability `json:"unavailable,omitempty"`
}

// ClaimState of a claim.
//
// WARNING - STABLE API. Readers take an unknown state for Granted.
type ClaimState string

// The states of version 1.
const (
	Pending ClaimState = "Pending"
	Granted ClaimState = "Granted"
)

// Reason is by which path a pod is to be disrupted.
//
// WARNING - STABLE API. For people and metrics only.
type Reason string

// The reasons known to version 1.
const (
	Eviction Reason = "Eviction"
	Deletion Reason = "Deletion"
)

// Claim announces one disruption (protocol rule R2).
//
// WARNING - STABLE API.
type Claim struct {
	ID      string   `json:"id"`
	UID     string   `json:"uid"`
	Pod     string   `json:"pod"`
	Budgets []string `json:"budgets,omitempty"`
	// Views names, for each of Budgets, the set of clusters that the claimant reads.
	// Without it, a reader takes the claimant to read others than itself.
	Views  []string   `json:"views,omitempty"`
	State  ClaimState `json:"state"`
	Ticket uint64     `json:"ticket"`
	Seq    uint64     `json:"seq,omitempty"`
	Reason Reason     `json:"reason,omitempty"`
}

// Waiters are pods that one controller replica has refused for want of one
// budget, and that somebody keeps asking for: the oldest few of those who have
// waited long. Requests elsewhere give way to them. It stands on a lease, for
// it is worth nothing once its writer is gone.
//
// WARNING - STABLE API. For fairness only: no grant rests on it.
type Waiters struct {
	Pods []Waiter `json:"pods"`
}

// Waiter is one pod of Waiters.
//
// WARNING - STABLE API.
type Waiter struct {
	UID string `json:"uid"`
	Pod string `json:"pod"`
	// Ticket is the place of the pod: that of its first try.
	Ticket uint64 `json:"ticket"`
	// WaitedMillis is since when it has waited, LastMillis when it was asked for
	// last, both before the record was written; EveryMillis is the time between
	// the last two tries.
	WaitedMillis int64 `json:"waitedMillis"`
	LastMillis   int64 `json:"lastMillis,omitempty"`
	EveryMillis  int64 `json:"everyMillis"`
}

// Record is any of the values above.
type Record interface {
	validate() error
}

// Marshal encodes a record; an invalid or oversized one is an error.
func Marshal(r Record) ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("encode %T: %w", r, err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", r, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("encode %T: %d bytes exceed %d", r, len(data), MaxSize)
	}
	return data, nil
}

// Unmarshal decodes data into r, a pointer to a record, and validates it.
func Unmarshal(data []byte, r Record) error {
	if len(data) > MaxSize {
		return fmt.Errorf("decode %T: %d bytes exceed %d", r, len(data), MaxSize)
	}
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("decode %T: %w", r, err)
	}
	if err := r.validate(); err != nil {
		return fmt.Errorf("decode %T: %w", r, err)
	}
	return nil
}

const (
	// maxWaiters bounds what one replica may ask others to remember.
	maxWaiters = 16
	// maxName is the longest name that Kubernetes gives.
	maxName = 253
	// maxView is twice what Cilium's largest mesh has.
	maxView = 1024
	// MaxMillis is a day, the longest time that is told; writers say a day for more.
	MaxMillis = 24 * 60 * 60 * 1000
)

// maxCount bounds numbers of pods and of tickets that arithmetic relies on.
const maxCount = 1 << 30

// maxTicket: one hostile ticket must not bring everybody's counter to its end.
const maxTicket = 1 << 62

var amount = regexp.MustCompile(`^([0-9]{1,9}|(100|[0-9]{1,2})%)$`)

func (i *Incarnation) validate() error {
	if i.ID == "" {
		return errors.New("id is empty")
	}
	return nil
}

func (m *Marker) validate() error {
	if m.Incarnation == "" {
		return errors.New("incarnation is empty")
	}
	return nil
}

func (b *Budget) validate() error {
	switch {
	case b.Tombstone:
		return nil
	case b.Service == "":
		return errors.New("service is empty")
	case (b.MinAvailable == "") == (b.MaxUnavailable == ""):
		return errors.New("exactly one of minAvailable and maxUnavailable must be set")
	case !amount.MatchString(b.MinAvailable + b.MaxUnavailable):
		return fmt.Errorf("%q is neither a number nor a percentage up to 100%%", b.MinAvailable+b.MaxUnavailable)
	case b.Expected < 0 || b.Expected > maxCount:
		return fmt.Errorf("expected %d is out of range", b.Expected)
	case len(b.View) > maxView:
		return fmt.Errorf("view: %d clusters exceed %d", len(b.View), maxView)
	}
	return errors.Join(short("service", b.Service), short("view", b.View...))
}

// short refuses what is longer than any name.
func short(field string, names ...string) error {
	for _, name := range names {
		if len(name) > maxName {
			return fmt.Errorf("%s exceeds %d characters", field, maxName)
		}
	}
	return nil
}

func (p *Pod) validate() error {
	if p.UID == "" {
		return errors.New("uid is empty")
	}
	for _, ip := range p.IPs {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("ips: %w", err)
		}
	}
	return errors.Join(short("uid", p.UID), short("name", p.Name))
}

func (c *Claim) validate() error {
	switch {
	case c.ID == "":
		return errors.New("id is empty")
	case c.UID == "":
		return errors.New("uid is empty")
	case c.State == "":
		return errors.New("state is empty")
	case c.Ticket > maxTicket:
		return fmt.Errorf("ticket %d is out of range", c.Ticket)
	}
	return errors.Join(short("id", c.ID), short("uid", c.UID), short("pod", c.Pod))
}

func (w *Waiters) validate() error {
	if len(w.Pods) > maxWaiters {
		return fmt.Errorf("%d pods exceed %d", len(w.Pods), maxWaiters)
	}
	for _, p := range w.Pods {
		switch {
		case p.UID == "":
			return errors.New("uid is empty")
		case max(len(p.UID), len(p.Pod)) > maxName:
			return fmt.Errorf("uid or pod exceed %d characters", maxName)
		case p.Ticket == 0 || p.Ticket > maxTicket:
			return fmt.Errorf("ticket %d is out of range", p.Ticket)
		case min(p.WaitedMillis, p.LastMillis, p.EveryMillis) < 0 || max(p.WaitedMillis, p.LastMillis, p.EveryMillis) > MaxMillis:
			return fmt.Errorf("times of pod %s are out of range", p.UID)
		}
	}
	return nil
}
