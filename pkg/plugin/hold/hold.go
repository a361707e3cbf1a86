package hold

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
)

// Reason is why something holds a budget back.
type Reason string

// Reasons.
const (
	// Unread: a cluster cannot be read, and the bound depends on it.
	Unread Reason = "Unread"
	// InFlight: pods of a cluster are on their way out.
	InFlight Reason = "InFlight"
	// Unavailable: pods of a cluster are not available, and nobody's disruption is the cause.
	Unavailable Reason = "Unavailable"
	// Never: the bound wants all pods that are expected.
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
}

// Cluster is one cluster's row.
type Cluster struct {
	Name        string       `json:"name"`
	Available   int32        `json:"available"`
	Expected    int32        `json:"expected"`
	InFlight    int32        `json:"inFlight"`
	Reachable   bool         `json:"reachable"`
	Since       *metav1.Time `json:"since,omitempty"`
	ShortSince  *metav1.Time `json:"shortSince,omitempty"`
	Message     string       `json:"message,omitempty"`
	Bound       string       `json:"bound,omitempty"`
	Unavailable int32        `json:"unavailable"`
}

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
	// Enforced in the cluster that was asked; NotEnforced says why not.
	Enforced    bool   `json:"enforced"`
	NotEnforced string `json:"notEnforced,omitempty"`
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
		r.NotEnforced = enforced.Message
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
		Reachable: c.Reachable, Since: since(c.Since), ShortSince: c.ShortSince, Message: c.Message, Bound: c.Bound,
	}
	if c.Reachable {
		row.Unavailable = max(0, c.ExpectedPods-c.CurrentHealthy-c.DisruptionsInFlight)
	}
	return row
}

func since(t metav1.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// holders finds who holds the budget back; those first that only people can free.
func holders(b *v1alpha1.MeshPodDisruptionBudget, r *Report) []Holder {
	switch {
	case b.Status.ObservedGeneration < b.Generation || len(b.Status.Clusters) == 0:
		return []Holder{{
			Reason: Unobserved, Sentence: fmt.Sprintf("no controller has looked at budget %s as it stands", r.FullName()),
			Frees: "the controller of this cluster; kubectl meshpdb doctor tells whether it runs",
		}}
	case r.Expected == 0 && r.unread() == 0:
		return []Holder{{
			Reason: NoPods, Since: r.Since, Sentence: fmt.Sprintf("no cluster expects a pod of service %s", r.Service),
			Frees: "pods that the service selects",
		}}
	}
	var all []Holder
	if r.unread() == 0 && r.Desired >= r.Expected {
		all = append(all, Holder{
			Reason: Never, Sentence: fmt.Sprintf("budget %s with %s wants all of its %s available", r.FullName(), strictest(r), pods(r.Expected)),
			Frees: "a larger maxUnavailable or a smaller minAvailable, in every cluster, or more pods",
		})
	}
	for _, c := range r.Clusters {
		if h, holds := holder(c); holds {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		all = append(all, Holder{Reason: Undecided, Since: r.Since, Sentence: cmp.Or(r.Message, "it allows nothing"), Frees: undecidedFrees(b)})
	}
	slices.SortStableFunc(all, func(a, b Holder) int { return cmp.Compare(rank(a.Reason), rank(b.Reason)) })
	return all
}

func rank(r Reason) int {
	return slices.Index([]Reason{Never, Unread, Unavailable, InFlight}, r)
}

const cannotBeRead = "cannot be read"

func holder(c Cluster) (Holder, bool) {
	h := Holder{Cluster: c.Name, Since: c.ShortSince}
	switch {
	case !c.Reachable:
		h.Reason, h.Since = Unread, c.Since
		h.Sentence = fmt.Sprintf("cluster %s %s: %s", c.Name, cannotBeRead, c.Message)
		h.Frees = fmt.Sprintf("the kvstore of %s, once it can be read again (kubectl meshpdb doctor says what is wrong); if %s is gone for ever, kubectl meshpdb forget %s -A takes it out of the budgets", c.Name, c.Name, c.Name)
	case c.Unavailable > 0:
		h.Reason = Unavailable
		h.Sentence = fmt.Sprintf("%d of %s in cluster %s %s not available", c.Unavailable, pods(c.Expected), c.Name, are(c.Unavailable))
		if c.InFlight > 0 {
			h.Sentence += fmt.Sprintf(", and %d %s on the way out", c.InFlight, are(c.InFlight))
		}
		h.Frees = fmt.Sprintf("the missing pods, once they are Ready in %s", c.Name)
	case c.InFlight > 0 && c.Available < c.Expected:
		h.Reason = InFlight
		h.Sentence = fmt.Sprintf("%d of %s in cluster %s %s on the way out", c.InFlight, pods(c.Expected), c.Name, are(c.InFlight))
		h.Frees = fmt.Sprintf("%s Ready in %s", successors(c.InFlight), c.Name)
	default:
		return h, false
	}
	return h, true
}

func undecidedFrees(b *v1alpha1.MeshPodDisruptionBudget) string {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionDisruptionAllowed)
	if c != nil && c.Reason == policyv1.SyncFailedReason {
		return "the same spec.clusters in every cluster, or their controllers, once they have seen one another"
	}
	return "kubectl meshpdb doctor may tell more"
}

func (r *Report) unread() int {
	n := 0
	for _, c := range r.Clusters {
		if !c.Reachable {
			n++
		}
	}
	return n
}

// strictest is the bound that wants most, as some cluster states it: it need not be this one's.
func strictest(r *Report) string {
	for _, c := range r.Clusters {
		if bound, ok := parseBound(c.Bound); ok && int32(bound.Desired(int(r.Expected))) == r.Desired && c.Bound != r.Bound {
			if own, ok := parseBound(r.Bound); !ok || int32(own.Desired(int(r.Expected))) < r.Desired {
				return fmt.Sprintf("%s of cluster %s", c.Bound, c.Name)
			}
		}
	}
	return r.Bound
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
	fmt.Fprintf(&s, ": %d of %s available, it needs %d (%s)", r.Available, pods(r.Expected), r.Desired, r.Bound)
	return s.String()
}

// State is the report in a few words, for a table.
func (r Report) State(now time.Time) string {
	switch {
	case r.Suspended && r.Allowed > 0:
		return "suspended in this cluster, free elsewhere"
	case r.Suspended:
		return "suspended in this cluster, elsewhere " + r.heldBack(now)
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
			text := fmt.Sprintf("can never allow any: %s wants all %d", strictest(&r), r.Expected)
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
	if h.Reason == Unread {
		// Before the cause, which may have many words and times of its own.
		return strings.Replace(h.Sentence, cannotBeRead, cannotBeRead+sinceText(h.Since, now), 1)
	}
	return h.Sentence + "," + sinceText(h.Since, now)
}

// State is the row's in a few words.
func (c Cluster) State(now time.Time) string {
	var text string
	at := c.ShortSince
	switch {
	case !c.Reachable:
		text, at = cannotBeRead, c.Since
	case c.Unavailable > 0 && c.InFlight > 0:
		text = fmt.Sprintf("%d not available, %d on the way out", c.Unavailable, c.InFlight)
	case c.Unavailable > 0:
		text = fmt.Sprintf("%d not available", c.Unavailable)
	case c.InFlight > 0:
		text = fmt.Sprintf("%d on the way out", c.InFlight)
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

func parseBound(text string) (budget.Bound, bool) {
	kind, value, _ := strings.Cut(text, " ")
	b := budget.Bound{Kind: map[string]budget.BoundKind{"minAvailable": budget.MinAvailable, "maxUnavailable": budget.MaxUnavailable}[kind]}
	value, b.Percent = strings.CutSuffix(value, "%")
	_, err := fmt.Sscanf(value, "%d", &b.Value)
	return b, err == nil && b.Kind != 0
}
