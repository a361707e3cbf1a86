package budget

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Verdict is the outcome of a decision. The zero value is invalid, so that a
// forgotten assignment can never read as permission.
type Verdict uint8

const (
	// Invalid is the zero Verdict; nobody may act on it.
	Invalid Verdict = iota
	// Allow: the bound holds even when every claim that was seen is granted.
	Allow
	// Deny: the bound cannot hold beside the claims that go first.
	Deny
	// Wait: the bound holds unless claims of lower priority are granted as
	// well; read again until they are decided (rule R5).
	Wait
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	case Wait:
		return "wait"
	default:
		return "invalid"
	}
}

// Reason names why a verdict was reached, for metrics and machine readers.
type Reason uint8

const (
	// NoReason is the zero Reason.
	NoReason Reason = iota
	// Enough: the bound holds.
	Enough
	// Insufficient: too few pods would remain available.
	Insufficient
	// ClusterUnread: the bound depends on a cluster that could not be read.
	ClusterUnread
	// ViewsDiffer: the clusters do not agree (yet) which clusters take part.
	ViewsDiffer
	// Unbounded: no cluster that was read states a bound.
	Unbounded
)

// String returns the reason in CamelCase, as Kubernetes conditions spell them.
func (r Reason) String() string {
	switch r {
	case Enough:
		return "SufficientPods"
	case Insufficient:
		return "InsufficientPods"
	case ClusterUnread:
		return "ClusterNotRead"
	case ViewsDiffer:
		return "ViewsDiffer"
	case Unbounded:
		return "NoBound"
	default:
		return "Unknown"
	}
}

// BoundKind tells the two ways to state a budget apart.
type BoundKind uint8

const (
	// MinAvailable asks for at least that many available pods.
	MinAvailable BoundKind = iota + 1
	// MaxUnavailable accepts at most that many unavailable pods.
	MaxUnavailable
)

// String returns the field of the spec that states such a bound.
func (k BoundKind) String() string {
	if k == MaxUnavailable {
		return "maxUnavailable"
	}
	return "minAvailable"
}

// Bound is minAvailable or maxUnavailable of one spec, a number of pods or a
// percentage of all expected pods of the mesh.
type Bound struct {
	Kind    BoundKind
	Value   int
	Percent bool
}

// Absolute reports whether the bound can be judged without knowing every
// cluster: only a number of minAvailable can (rule R4).
func (b Bound) Absolute() bool { return b.Kind == MinAvailable && !b.Percent }

// Desired returns how many of expected pods the bound wants available.
// Percentages round up, for both kinds, as in Kubernetes.
func (b Bound) Desired(expected int) int {
	value := b.Value
	if b.Percent {
		value = (expected*b.Value + 99) / 100
	}
	if b.Kind == MaxUnavailable {
		return max(0, expected-value)
	}
	return value
}

// String returns the bound as its user wrote it: `maxUnavailable 1`.
func (b Bound) String() string {
	s := b.Kind.String() + " " + strconv.Itoa(b.Value)
	if b.Percent {
		s += "%"
	}
	return s
}

// ParseBound reads what [Bound.String] spells; ok is false if text is anything else.
func ParseBound(text string) (b Bound, ok bool) {
	kind, value, _ := strings.Cut(text, " ")
	switch kind {
	case MinAvailable.String():
		b.Kind = MinAvailable
	case MaxUnavailable.String():
		b.Kind = MaxUnavailable
	default:
		return Bound{}, false
	}
	value, b.Percent = strings.CutSuffix(value, "%")
	number, err := strconv.ParseUint(value, 10, 31)
	b.Value = int(number)
	return b, err == nil
}

// Claim is how a claim on a pod stands to the claim that is being decided.
type Claim uint8

const (
	// Unclaimed: nobody may disrupt this pod.
	Unclaimed Claim = iota
	// Granted: its disruption was allowed.
	Granted
	// PendingHigher: an undecided claim that goes before ours.
	PendingHigher
	// PendingLower: an undecided claim that gives way to ours.
	PendingLower
)

// Pod is a pod of the budget as its cluster published it.
type Pod struct {
	// UID identifies the pod; names and IPs are reused, UIDs never.
	UID string
	// Available: Ready, not terminating, and not contradicted by Cilium's
	// exported endpoints.
	Available bool
	// Unexported: not available only because Cilium's exported endpoints do not have it (yet).
	Unexported bool
	// Terminating: on its way out, whoever asked for that.
	Terminating bool
	// Claim is the strongest claim on the pod.
	Claim Claim
}

// Cluster is what one cluster in scope reported.
type Cluster struct {
	Name string
	// Unread says why there is no valid snapshot of the cluster; empty if there is one.
	Unread string
	// Bounds of the cluster's own spec. For an unread cluster: the last known ones.
	Bounds []Bound
	// Expected is the number of pods that the cluster's owners ask for. For an
	// unread cluster: as known last; no verdict depends on it.
	Expected int
	// View is the set of clusters that this cluster believes to take part.
	View []string
	Pods []Pod
}

// Question asks whether one pod may be disrupted under one budget.
type Question struct {
	// Budget is namespace/name, for the sentence.
	Budget string
	// Pod is the pod's name, for the sentence.
	Pod string
	// UID of the pod; empty asks for the state of the budget: whether one more
	// available pod may go, whichever.
	UID      string
	Clusters []Cluster
}

// Decision is the answer to a [Question], with the numbers it rests on.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Expected is the number of pods that the mesh should run.
	Expected int
	// Desired is the number of pods that must stay available (M of rule R4).
	Desired int
	// Available is the number of available pods that no granted claim names,
	// the pod in question included, each cluster capped at what it expects.
	Available int
	// InFlight is the number of pods that are named in granted claims or terminate.
	InFlight int
	// Left is what would remain available if the pod went, without the pods
	// of granted claims and of those that go first.
	Left int
	// Cost is by how much the pod's going lowers what is available: 0 for one that
	// is not available anyway, or that its cluster runs beyond what it expects.
	Cost int
	// Unread lists the clusters in scope without a valid snapshot.
	Unread []string
	// Sentence says all of this to a person, in one sentence without a final stop.
	Sentence string
}

// Allowed returns how many disruptions the budget allows now, as
// policy/v1's disruptionsAllowed: never negative, and 0 when undecidable.
func (d Decision) Allowed() int {
	if d.Reason == ClusterUnread || d.Reason == ViewsDiffer || d.Reason == Unbounded {
		return 0
	}
	return max(0, d.Available-d.Desired)
}

// Decide applies rules R4 and R5 to one budget.
func Decide(q Question) Decision {
	clusters := slices.SortedFunc(slices.Values(q.Clusters), func(a, b Cluster) int { return cmp.Compare(a.Name, b.Name) })
	q.Clusters = clusters
	t := count(q)
	d := Decision{Expected: t.expected, Available: t.available, InFlight: t.inFlight, Left: max(0, t.leftOfFirst), Cost: t.cost, Unread: t.unread}
	bounds := strictest(clusters, t.expected)
	if len(bounds) == 0 {
		d.Verdict, d.Reason = Deny, Unbounded
		d.Sentence = describe(q, d, nil)
		return d
	}
	d.Desired = bounds[0].Desired(t.expected)
	relative := slices.ContainsFunc(bounds, func(b Bound) bool { return !b.Absolute() })
	switch {
	case relative && len(t.unread) > 0:
		d.Verdict, d.Reason = Deny, ClusterUnread
	case relative && !viewsAgree(clusters):
		d.Verdict, d.Reason = Deny, ViewsDiffer
	case t.leftOfAll >= d.Desired:
		d.Verdict, d.Reason = Allow, Enough
	case t.leftOfFirst < d.Desired && len(t.unread) > 0:
		d.Verdict, d.Reason = Deny, ClusterUnread
	case t.leftOfFirst < d.Desired:
		d.Verdict, d.Reason = Deny, Insufficient
	default:
		d.Verdict, d.Reason = Wait, Insufficient
	}
	d.Sentence = describe(q, d, bounds)
	return d
}

type tally struct {
	expected, available, inFlight int
	leftOfFirst, leftOfAll, cost  int
	unread                        []string
}

// count is rule R4. Claims are taken off before a cluster is capped at its
// expected count: a surge pod then pays for a claimed one of the same cluster,
// and the pods counted are still pods that no claim names.
func count(q Question) tally {
	var t tally
	for _, c := range q.Clusters {
		t.expected += c.Expected
		if c.Unread != "" {
			t.unread = append(t.unread, c.Name)
			continue
		}
		var available, first, all, own int
		for _, p := range c.Pods {
			if p.Claim == Granted || p.Terminating {
				t.inFlight++
			}
			if !p.Available || p.Claim == Granted {
				continue
			}
			available++
			if p.UID == q.UID && q.UID != "" {
				own = 1
				continue
			}
			if p.Claim != PendingHigher {
				first++
				if p.Claim != PendingLower {
					all++
				}
			}
		}
		t.available += min(available, c.Expected)
		t.leftOfFirst += min(first, c.Expected)
		t.leftOfAll += min(all, c.Expected)
		t.cost += min(first+own, c.Expected) - min(first, c.Expected)
	}
	if q.UID == "" {
		t.leftOfFirst--
		t.leftOfAll--
		t.cost = 1
	}
	return t
}

// strictest returns all distinct bounds that any cluster states, the one that
// wants the most available pods first: a tightening binds as soon as one
// cluster shows it (protocol section 5, "Spec").
func strictest(clusters []Cluster, expected int) []Bound {
	var all []Bound
	for _, c := range clusters {
		for _, b := range c.Bounds {
			if !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Bound) int { return cmp.Compare(b.Desired(expected), a.Desired(expected)) })
	return all
}

// viewsAgree reports whether every cluster names exactly the clusters in q as
// taking part (rule R4; V03 and V04 of the protocol show what breaks without).
func viewsAgree(clusters []Cluster) bool {
	names := make([]string, 0, len(clusters))
	for _, c := range clusters {
		names = append(names, c.Name)
	}
	for _, c := range clusters {
		// Published views are sorted; one that is not must not be taken for another set.
		if !slices.Equal(c.View, names) && !slices.Equal(slices.Sorted(slices.Values(c.View)), names) {
			return false
		}
	}
	return true
}
