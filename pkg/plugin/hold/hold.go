package hold

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Reason is why something holds a budget back.
type Reason string

// Reasons.
const (
	// Unread: a cluster cannot be read, and the bound depends on it.
	Unread Reason = "Unread"
	// InFlight: pods of a cluster are on their way out, and not replaced yet.
	InFlight Reason = "InFlight"
	// Unavailable: pods of a cluster are not available, and nobody's disruption is the cause.
	Unavailable Reason = "Unavailable"
	// Never: the bound wants all pods that are expected, so it allows nothing while they are as many.
	Never Reason = "Never"
	// NoPods: no cluster expects any pod.
	NoPods Reason = "NoPods"
	// Unobserved: no controller has looked at the budget as it stands.
	Unobserved Reason = "Unobserved"
	// Undecided: the clusters do not agree, or something is wrong with the budget.
	Undecided Reason = "Undecided"
)

// Holder is who or what holds a budget back.
type Holder struct {
	// Cluster, if it is one; empty for the budget itself.
	Cluster string `json:"cluster,omitempty"`
	Reason  Reason `json:"reason"`
	// Since when; none if the status does not tell.
	Since *metav1.Time `json:"since,omitempty"`
	// Sentence says what is the matter.
	Sentence string `json:"sentence"`
	// Frees says what would end it.
	Frees string `json:"frees"`
	// Commands help with that; each can be typed as it stands.
	Commands []Command `json:"commands,omitempty"`
	// Elsewhere says where its pods are named, if no command here can.
	Elsewhere string `json:"elsewhere,omitempty"`
	// Pods that are in flight or not available, if the holder is the cluster that was asked.
	Pods []Pod `json:"pods,omitempty"`
}

// Command is one that helps.
type Command struct {
	// Purpose says what it does: "to see what is wrong".
	Purpose string `json:"purpose"`
	Run     string `json:"run"`
}

// Pod is one that is not there for its budget.
type Pod struct {
	Name string `json:"name"`
	// Node, if it is known.
	Node string `json:"node,omitempty"`
	// State says what is the matter with it.
	State string `json:"state"`
	// InFlight: it is on its way out; else it is not available.
	InFlight bool `json:"inFlight"`
}

// Cluster is one cluster's row. While it cannot be read, what is available, unavailable and in flight there is not known, and 0.
type Cluster struct {
	Name      string `json:"name"`
	Available int32  `json:"available"`
	Expected  int32  `json:"expected"`
	// Unavailable are those that are missing of the expected; those in flight are among them.
	Unavailable int32 `json:"unavailable"`
	InFlight    int32 `json:"inFlight"`
	Reachable   bool  `json:"reachable"`
	// ReachableSince or UnreachableSince is when Reachable became what it is.
	ReachableSince   *metav1.Time `json:"reachableSince,omitempty"`
	UnreachableSince *metav1.Time `json:"unreachableSince,omitempty"`
	// UnavailableSince is since when fewer pods are available than expected. While the cluster cannot be read it stands as it was.
	UnavailableSince *metav1.Time `json:"unavailableSince,omitempty"`
	// Message says why the cluster cannot be read.
	Message string `json:"message,omitempty"`
	Bound   string `json:"bound,omitempty"`
}

// missing are the pods that are not available and not in flight either.
func (c Cluster) missing() int32 { return max(0, c.Unavailable-c.InFlight) }

// leaving are the pods in flight that are missed. A pod counts as in flight for seconds after it was replaced, until its
// claim is dropped, and for as long as nobody publishes the cluster's pods, so there may be more in flight than expected.
func (c Cluster) leaving() int32 { return min(c.InFlight, c.Unavailable) }

// Report is what there is to say of a budget.
type Report struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Bound as its user wrote it.
	Bound   string `json:"bound"`
	Service string `json:"service"`
	// Allowed and the next four as in the status of the budget, over the mesh.
	Allowed   int32 `json:"disruptionsAllowed"`
	Available int32 `json:"currentHealthy"`
	Desired   int32 `json:"desiredHealthy"`
	Expected  int32 `json:"expectedPods"`
	InFlight  int32 `json:"disruptionsInFlight"`
	// Since is when the budget began to allow something, or nothing.
	Since *metav1.Time `json:"since,omitempty"`
	// Suspended: in the cluster that was asked, the budget holds nothing.
	Suspended bool `json:"suspended"`
	// Enforced in the cluster that was asked; NotEnforced says why not, and NotEnforcedSince since when, if that is known.
	Enforced         bool         `json:"enforced"`
	NotEnforced      string       `json:"notEnforced,omitempty"`
	NotEnforcedSince *metav1.Time `json:"notEnforcedSince,omitempty"`
	// Message is the decision's own sentence.
	Message string `json:"message,omitempty"`
	// HeldBackBy is empty while something is allowed.
	HeldBackBy []Holder                     `json:"heldBackBy,omitempty"`
	Clusters   []Cluster                    `json:"clusters,omitempty"`
	Waiting    []v1alpha1.WaitingDisruption `json:"waiting,omitempty"`
	// WaitingDisruptions counts all of those that wait.
	WaitingDisruptions int32 `json:"waitingDisruptions"`
}

// FullName is namespace/name.
func (r Report) FullName() string { return r.Namespace + "/" + r.Name }

// Of reports on a budget as one cluster's controller sees it.
func Of(b *v1alpha1.MeshPodDisruptionBudget) Report {
	s := &b.Status
	r := Report{
		Namespace: b.Namespace, Name: b.Name, Bound: boundText(&b.Spec), Service: b.Spec.Service,
		Allowed: s.DisruptionsAllowed, Available: s.CurrentHealthy, Desired: s.DesiredHealthy, Expected: s.ExpectedPods, InFlight: s.DisruptionsInFlight,
		Suspended: b.Spec.Suspend, Waiting: s.Waiting, WaitingDisruptions: s.WaitingDisruptions,
	}
	if allowed := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionDisruptionAllowed); allowed != nil {
		r.Since, r.Message = since(allowed.LastTransitionTime), allowed.Message
	}
	enforced := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionEnforced)
	switch {
	case enforced == nil:
		r.NotEnforced = "the controller of this cluster has not looked at it yet"
	case enforced.Status != metav1.ConditionTrue:
		r.NotEnforced, r.NotEnforcedSince = enforced.Message, since(enforced.LastTransitionTime)
	default:
		r.Enforced = true
	}
	for _, c := range s.Clusters {
		r.Clusters = append(r.Clusters, clusterOf(c))
	}
	slices.SortFunc(r.Clusters, func(a, b Cluster) int { return cmp.Compare(a.Name, b.Name) })
	if r.Allowed == 0 {
		r.HeldBackBy = holders(b, &r)
	}
	return r
}

func clusterOf(c v1alpha1.ClusterStatus) Cluster {
	row := Cluster{
		Name: c.Name, Available: c.CurrentHealthy, Expected: c.ExpectedPods, InFlight: c.DisruptionsInFlight,
		Reachable: c.Reachable, UnavailableSince: c.ShortSince, Message: c.Message, Bound: c.Bound,
	}
	if !c.Reachable {
		row.UnreachableSince = since(c.Since)
		return row
	}
	row.ReachableSince, row.Unavailable = since(c.Since), max(0, c.ExpectedPods-c.CurrentHealthy)
	return row
}

func since(t metav1.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Summary is the report in one sentence; now puts times on the clock.
func (r Report) Summary(now time.Time) string {
	var s strings.Builder
	if r.Allowed > 0 {
		fmt.Fprintf(&s, "budget %s allows %s", r.FullName(), disruptions(r.Allowed))
	} else {
		fmt.Fprintf(&s, "budget %s allows no disruption", r.FullName())
	}
	s.WriteString(sinceText(r.Since, now))
	fmt.Fprintf(&s, ": %s, it needs %d (%s)", r.Counted(), r.Desired, r.Bound)
	return s.String()
}

// Counted says how many pods are available, which are at least so many while a cluster cannot be read.
func (r Report) Counted() string {
	least := ""
	if r.Unread() > 0 {
		least = "at least "
	}
	return fmt.Sprintf("%s%d of %s available", least, r.Available, pods(r.Expected))
}

// AllowsAgain says when a budget that several hold back allows something again; empty if that is clear from its holders.
func (r Report) AllowsAgain() string {
	if len(r.HeldBackBy) < 2 || r.HeldBackBy[0].Reason == Never {
		return ""
	}
	if r.Unread() > 0 {
		return fmt.Sprintf("it allows one again once %d are known to be available", r.Desired+1)
	}
	return fmt.Sprintf("it allows one again once %d are available: %d more than now, wherever", r.Desired+1, r.Desired+1-r.Available)
}

// names of the clusters that take part.
func (r *Report) names() []string {
	var all []string
	for _, c := range r.Clusters {
		all = append(all, c.Name)
	}
	return all
}

// Unread is how many clusters cannot be read.
func (r Report) Unread() int {
	n := 0
	for _, c := range r.Clusters {
		if !c.Reachable {
			n++
		}
	}
	return n
}

// State is the report in a few words, for a table.
func (r Report) State(now time.Time) string {
	switch {
	case r.Suspended && r.Allowed > 0:
		return "suspended in this cluster" + sinceText(r.NotEnforcedSince, now) + ", free elsewhere"
	case r.Suspended:
		return "suspended in this cluster" + sinceText(r.NotEnforcedSince, now) + ", elsewhere " + r.heldBack(now)
	case r.Allowed > 0 && r.Enforced:
		return "free"
	case r.Allowed > 0:
		return "not enforced: " + r.NotEnforced
	}
	return r.heldBack(now)
}

// fewHolders are named in a table; a mesh may have hundreds of clusters.
const fewHolders = 3

// heldBack says who holds the budget back, each since when.
func (r Report) heldBack(now time.Time) string {
	var names []string
	for _, h := range r.HeldBackBy {
		switch h.Reason {
		case Never:
			text := fmt.Sprintf("%s: %s wants all %d", r.neverAny(), strictest(&r), r.Expected)
			if r.Since != nil {
				text = "allows nothing since " + Ago(*r.Since, now) + ", and " + text
			}
			return text
		case NoPods:
			return "no pods" + sinceText(h.Since, now)
		case Unobserved:
			return "not looked at yet"
		case Undecided:
			return "undecided" + sinceText(h.Since, now)
		}
		names = append(names, h.Cluster+sinceText(h.Since, now))
	}
	if more := len(names) - fewHolders; more > 0 {
		names = append(names[:fewHolders], fmt.Sprintf("and %d more", more))
	}
	return "held back by " + strings.Join(names, ", ")
}

// Frees says what would free a budget that allows nothing: each of its holders must go.
// Empty if nothing holds it back.
func (r Report) Frees() string {
	var all []string
	for _, h := range r.HeldBackBy {
		all = append(all, h.Frees)
	}
	if more := len(all) - fewHolders; more > 0 {
		all = append(all[:fewHolders], fmt.Sprintf("and what %d more clusters wait for", more))
	}
	return strings.Join(all, "; ")
}

// Said is the holder's sentence with the time since when.
func (h Holder) Said(now time.Time) string {
	if h.Since == nil {
		return h.Sentence
	}
	for _, state := range []string{cannotBeRead, notAvailable} {
		// Before what is said of it, which may have many words and times of its own.
		if before, after, found := strings.Cut(h.Sentence, state); found && h.Cluster != "" {
			return before + state + sinceText(h.Since, now) + after
		}
	}
	return h.Sentence + "," + sinceText(h.Since, now)
}

// State is the row's in a few words.
func (c Cluster) State(now time.Time) string {
	var text string
	at := c.UnavailableSince
	switch {
	case !c.Reachable:
		text, at = cannotBeRead, c.UnreachableSince
	case c.missing() > 0 && c.InFlight > 0:
		text = fmt.Sprintf("%d not available, %d of them in flight", c.Unavailable, c.InFlight)
	case c.missing() > 0:
		text = fmt.Sprintf("%d not available", c.missing())
	case c.InFlight > 0:
		text = fmt.Sprintf("%d in flight", cmp.Or(c.leaving(), c.InFlight))
	default:
		return "complete"
	}
	return text + sinceText(at, now)
}

func boundText(spec *v1alpha1.MeshPodDisruptionBudgetSpec) string {
	switch {
	case spec.MinAvailable != nil:
		return "minAvailable " + spec.MinAvailable.String()
	case spec.MaxUnavailable != nil:
		return "maxUnavailable " + spec.MaxUnavailable.String()
	}
	return "no bound"
}
