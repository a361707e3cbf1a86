package hold

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
)

// holders finds who holds the budget back; those first that only people can free.
func holders(b *v1alpha1.MeshPodDisruptionBudget, r *Report) []Holder {
	switch {
	case b.Status.ObservedGeneration < b.Generation || len(b.Status.Clusters) == 0:
		return []Holder{{
			Reason: Unobserved, Sentence: fmt.Sprintf("no controller has looked at budget %s as it stands", r.FullName()),
			Frees: "the controller of this cluster, once it has looked at it", Commands: []Command{doctor("to see whether it runs")},
		}}
	case r.Expected == 0 && r.Unread() == 0:
		return []Holder{{
			Reason: NoPods, Since: r.Since, Sentence: fmt.Sprintf("no cluster expects a pod of service %s", r.Service),
			Frees: fmt.Sprintf("pods that service %s selects, of an owner such as a Deployment", r.Service),
		}}
	}
	var all []Holder
	if r.Unread() == 0 && r.Desired >= r.Expected {
		all = append(all, never(r))
	}
	for _, c := range r.Clusters {
		if h, holds := holder(c); holds {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		all = append(all, Holder{Reason: Undecided, Since: r.Since, Sentence: cmp.Or(r.Message, "it allows nothing"), Frees: undecidedFrees(b), Commands: []Command{doctor("to see what is wrong")}})
	}
	slices.SortStableFunc(all, func(a, b Holder) int { return cmp.Compare(rank(a.Reason), rank(b.Reason)) })
	return all
}

func rank(r Reason) int {
	return slices.Index([]Reason{Never, Unread, Unavailable, InFlight}, r)
}

// States of a cluster, as sentences say them.
const (
	cannotBeRead = "cannot be read"
	notAvailable = "not available"
)

func doctor(purpose string) Command { return Command{purpose, "kubectl meshpdb doctor"} }

func holder(c Cluster) (Holder, bool) {
	h := Holder{Cluster: c.Name, Since: c.UnavailableSince}
	switch {
	case !c.Reachable:
		h.Reason, h.Since = Unread, c.UnreachableSince
		h.Sentence = fmt.Sprintf("cluster %s %s: %s", c.Name, cannotBeRead, c.Message)
		h.Frees = fmt.Sprintf("cluster %s, once its kvstore (clustermesh-apiserver) can be read again; or, if %s is gone for ever, forgetting it", c.Name, c.Name)
		h.Commands = []Command{
			doctor("to see what is wrong"),
			{fmt.Sprintf("to see what forgetting %s would change in this cluster (all that are left must do it)", c.Name), fmt.Sprintf("kubectl meshpdb forget %s -A", c.Name)},
		}
	case c.missing() > 0:
		h.Reason = Unavailable
		h.Sentence = fmt.Sprintf("%d of %s in cluster %s %s %s", c.Unavailable, pods(c.Expected), c.Name, are(c.Unavailable), notAvailable)
		if c.InFlight > 0 {
			h.Sentence += fmt.Sprintf(", %d of them in flight (on the way out)", c.InFlight)
		}
		h.Frees = fmt.Sprintf("the missing pods, once they are Ready in %s", c.Name)
	case c.InFlight > 0 && c.Available < c.Expected:
		h.Reason = InFlight
		h.Sentence = fmt.Sprintf("%d of %s in cluster %s %s in flight (on the way out, and not replaced yet)", c.leaving(), pods(c.Expected), c.Name, are(c.leaving()))
		h.Frees = fmt.Sprintf("%s Ready in %s", successors(c.leaving()), c.Name)
	default:
		return h, false
	}
	return h, true
}

// never is what holds a budget back that wants all of its pods.
func never(r *Report) Holder {
	h := Holder{
		Reason: Never, Since: r.Since, Sentence: fmt.Sprintf("budget %s with %s wants all of its %s available", r.FullName(), strictest(r), pods(r.Expected)),
		Frees:    fmt.Sprintf("%s, in every cluster that holds the budget (%s)", looser(strictest(r)), strings.Join(r.names(), ", ")),
		Commands: []Command{{"to change it here", fmt.Sprintf("kubectl edit meshpoddisruptionbudget %s -n %s", r.Name, r.Namespace)}},
	}
	if r.morePodsFree() {
		h.Frees += "; or more pods than " + fmt.Sprint(r.Expected)
	}
	return h
}

// looser names the change that a bound needs.
func looser(bound string) string {
	if strings.HasPrefix(bound, budget.MinAvailable.String()) {
		return "a smaller minAvailable"
	}
	return "a larger maxUnavailable"
}

// neverAny says whether it is for ever that the budget allows nothing.
func (r *Report) neverAny() string {
	if r.morePodsFree() {
		return fmt.Sprintf("cannot allow any with %s", pods(r.Expected))
	}
	return "can never allow any"
}

// morePodsFree reports whether a budget that wants all of its pods would allow something if there were more.
func (r *Report) morePodsFree() bool {
	for _, c := range r.Clusters {
		if bound, ok := budget.ParseBound(c.Bound); ok && hopeless(bound) {
			return false
		}
	}
	bound, ok := budget.ParseBound(r.Bound)
	return !ok || !hopeless(bound)
}

// hopeless bounds want all pods, however many there are.
func hopeless(b budget.Bound) bool {
	if b.Kind == budget.MaxUnavailable {
		return b.Value == 0
	}
	return b.Percent && b.Value >= 100
}

func undecidedFrees(b *v1alpha1.MeshPodDisruptionBudget) string {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionDisruptionAllowed)
	if c != nil && c.Reason == policyv1.SyncFailedReason {
		return "the same spec.clusters in every cluster, or their controllers, once they have seen one another"
	}
	return "what its controllers wait for"
}

// strictest is the bound that wants most, as some cluster states it: it need not be this one's.
func strictest(r *Report) string {
	for _, c := range r.Clusters {
		if bound, ok := budget.ParseBound(c.Bound); ok && int32(bound.Desired(int(r.Expected))) == r.Desired && c.Bound != r.Bound {
			if own, ok := budget.ParseBound(r.Bound); !ok || int32(own.Desired(int(r.Expected))) < r.Desired {
				return fmt.Sprintf("%s of cluster %s", c.Bound, c.Name)
			}
		}
	}
	return r.Bound
}
