package history

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what an Event tells. The zero Kind is invalid.
type Kind string

const (
	// Budget: a cluster states a budget from now on, or changes what it states.
	// Without a Statement the cluster takes part no longer: its pods do not count.
	Budget Kind = "budget"
	// Available: the pod is Ready and not terminating.
	Available Kind = "available"
	// Unavailable: it is not Ready, by itself; it may be again.
	Unavailable Kind = "unavailable"
	// Terminating: it was deleted or evicted; a pod never comes back from that.
	Terminating Kind = "terminating"
	// Lost: it ended without anybody asking: its node, its controller, itself.
	Lost Kind = "lost"
	// Asked: somebody asks for the disruption of the pod.
	Asked Kind = "asked"
	// Answered: the question with the same Request number is answered.
	Answered Kind = "answered"
)

// Answer is what became of a request. The zero Answer is invalid.
type Answer string

const (
	// Allowed: the pod is disrupted, or may be from now on.
	Allowed Answer = "allowed"
	// Refused: ask again later.
	Refused Answer = "refused"
	// Failed: it had no effect and never will, as on a pod that is gone.
	Failed Answer = "failed"
	// Unknown: the answer was lost, or is one that does not tell what happened,
	// such as a timeout.
	Unknown Answer = "unknown"
)

// Interval is when something happened, since the start of the history: not
// before Earliest, and not after Latest. What is told at 0 or before was so
// when the history began.
type Interval struct {
	Earliest time.Duration `json:"earliest"`
	Latest   time.Duration `json:"latest"`
}

// At is the interval of what happened at a known moment.
func At(t time.Duration) Interval { return Interval{Earliest: t, Latest: t} }

// Bound is what a budget asks for: a number of pods, such as "2", or a
// percentage of all that are expected, such as "60%". One of the two is set.
type Bound struct {
	MinAvailable   string `json:"minAvailable,omitempty"`
	MaxUnavailable string `json:"maxUnavailable,omitempty"`
}

// String returns the bound as its user wrote it: "maxUnavailable 1".
func (b Bound) String() string {
	if b.MinAvailable != "" {
		return "minAvailable " + b.MinAvailable
	}
	return "maxUnavailable " + b.MaxUnavailable
}

// Desired is how many of expected pods the bound wants available. Percentages
// are rounded up, as Kubernetes does for both kinds.
func (b Bound) Desired(expected int) (int, error) {
	if (b.MinAvailable == "") == (b.MaxUnavailable == "") {
		return 0, errors.New("bound must be one of minAvailable and maxUnavailable")
	}
	text, percent := strings.CutSuffix(b.MinAvailable+b.MaxUnavailable, "%")
	value, err := strconv.Atoi(text)
	if err != nil || value < 0 {
		return 0, fmt.Errorf("bound %q is neither a number nor a percentage", b)
	}
	if percent {
		value = (expected*value + 99) / 100
	}
	if b.MaxUnavailable != "" {
		value = max(0, expected-value)
	}
	return value, nil
}

// Statement is what one cluster states of a budget.
type Statement struct {
	Bound
	// Expected is how many pods there should be in that cluster.
	Expected int `json:"expected"`
}

// Event is one line of a history.
type Event struct {
	Interval
	Kind Kind `json:"kind"`
	// Budget as namespace/name. Every event but Answered has it and Cluster.
	Budget  string `json:"budget,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	// Pod is its UID, for all kinds but Budget and Answered: names are used again.
	Pod string `json:"pod,omitempty"`
	// Name of the pod, for people.
	Name string `json:"name,omitempty"`
	// Statement of a Budget.
	Statement *Statement `json:"statement,omitempty"`
	// Request ties an answer to its question. Numbers are not used again.
	Request uint64 `json:"request,omitempty"`
	// Caller who asked, for people.
	Caller string `json:"caller,omitempty"`
	Answer Answer `json:"answer,omitempty"`
}

// validate reports what keeps an event from being understood by itself.
func (e Event) validate() error {
	if e.Earliest > e.Latest {
		return fmt.Errorf("earliest %s is after latest %s", e.Earliest, e.Latest)
	}
	switch e.Kind {
	case Answered:
		switch e.Answer {
		case Allowed, Refused, Failed, Unknown:
		default:
			return fmt.Errorf("answer %q is not known", e.Answer)
		}
		if e.Request == 0 {
			return errors.New("answer names no request")
		}
		return nil
	case Budget, Available, Unavailable, Terminating, Lost, Asked:
	default:
		return fmt.Errorf("kind %q is not known", e.Kind)
	}
	switch {
	case e.Budget == "" || e.Cluster == "":
		return fmt.Errorf("%s names no budget or no cluster", e.Kind)
	case e.Kind != Budget && e.Pod == "":
		return fmt.Errorf("%s names no pod", e.Kind)
	case e.Kind == Asked && e.Request == 0:
		return errors.New("question has no request number")
	}
	if e.Kind == Budget && e.Statement != nil {
		if e.Statement.Expected < 0 {
			return fmt.Errorf("%d pods are expected", e.Statement.Expected)
		}
		_, err := e.Statement.Desired(e.Statement.Expected)
		return err
	}
	return nil
}

// History is what happened in one run. Events that happened to the same pod,
// and those of the same cluster's budget, are in their order; otherwise the order is free.
type History struct {
	// Start is the moment that all intervals are counted from; zero if the run had a
	// clock of its own.
	Start  time.Time
	Events []Event
}
