package flow

import (
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// Verdict is what became of a request. The zero value is invalid, and is shown as Failed.
type Verdict uint8

// The verdicts, with Hubble's word for each.
const (
	// Allowed is FORWARDED.
	Allowed Verdict = iota + 1
	// Refused is DROPPED.
	Refused
	// Exempted is AUDIT: it goes although the budgets, or the protection of what it takes with it, say no.
	Exempted
	// Failed is ERROR: nobody could decide, whichever answer left.
	Failed
)

// Decision is one answer of the webhooks.
type Decision struct {
	// Time is when the answer left, Took how long it had taken; zero if that was not measured.
	Time time.Time
	Took time.Duration
	// Review is the UID of the API server's question.
	Review string
	// Cluster was asked, and Controller answered.
	Cluster, Controller string
	// Version is the controller's.
	Version string

	Verdict Verdict
	// Admitted is the answer itself, which a Failed one does not tell.
	Admitted bool
	// Reason in CamelCase, as in the metrics.
	Reason string
	// Sentence is the one of the answer.
	Sentence string
	// Path is who disrupts, as in docs/paths.md, or "intent" for what pods live by.
	Path   string
	DryRun bool

	// User as authenticated, and the pod whose token was presented, if that is known.
	User, UserPod string
	Object        Object
	// Budgets that were asked or concerned, the decisive one first.
	Budgets []Budget
	// Arithmetic of the decisive budget; its zero value if there was none.
	Arithmetic budget.Decision
}

// Object is what was to be evicted or deleted.
type Object struct {
	// Group is empty for the core group; Version and Resource are those of its URL.
	Group, Version, Resource string
	// Kind for people.
	Kind string
	// Namespace is empty for what has none.
	Namespace, Name, UID string
	// Eviction: it was to be evicted rather than deleted.
	Eviction bool
	// IP, labels and owner of a pod. Its service account and identity are not
	// known: refusals are made from memory, which holds neither.
	IP                   string
	Labels               map[string]string
	OwnerKind, OwnerName string
}

// Budget is a budget's identity.
type Budget struct {
	Namespace, Name string
	Generation      int64
}
