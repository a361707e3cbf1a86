package checkup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

// long is how long pods may be missing, or a disruption wait, before that is told.
const long = 15 * time.Minute

// budgets examines every budget, and its Service and namespace.
func (f Facts) budgets(passed map[Check]string) []Finding {
	if f.BudgetsErr != nil {
		return []Finding{unchecked(Budgets, f.BudgetsErr, "the ClusterRole meshpdb-view lets you read budgets; if the kind does not exist, "+f.apply("-k deploy"))}
	}
	var all []Finding
	if f.LookupErr != nil {
		all = append(all, unchecked(Services, f.LookupErr, "have somebody allow you to get services and namespaces, and see: kubectl auth can-i get services"))
	}
	for i := range f.Budgets {
		b := &f.Budgets[i]
		all = append(all, f.enforced(b)...)
		all = append(all, f.shape(b)...)
		all = append(all, f.service(b)...)
	}
	enforced, spent := f.wellEnforced()
	passed[Budgets] = enforced
	if spent && !slices.ContainsFunc(all, func(o Finding) bool { return o.Check == Budgets }) {
		all = append(all, Finding{Level: Note, Check: Budgets, Message: enforced})
	}
	passed[Services] = "Cilium exports the service of every budget"
	if len(f.Budgets) == 0 {
		passed[Budgets], passed[Services] = "there is none", "no budget names one"
	}
	return all
}

// wellEnforced says of budgets with which nothing is wrong which of them allow nothing now, and whether any does.
func (f Facts) wellEnforced() (sentence string, spent bool) {
	text := "1 budget is enforced"
	if len(f.Budgets) != 1 {
		text = fmt.Sprintf("%d budgets are enforced", len(f.Budgets))
	}
	var names []string
	for i := range f.Budgets {
		if r := hold.Of(&f.Budgets[i]); r.Allowed == 0 {
			names = append(names, fmt.Sprintf("%s allows nothing now, %s; what would free it is told by: kubectl meshpdb status %s -n %s --context %s", r.FullName(), r.State(f.Now), r.Name, r.Namespace, f.Context))
		}
	}
	switch {
	case len(names) > maxSpent:
		return fmt.Sprintf("%s; %d of them allow nothing now, such as: %s", text, len(names), strings.Join(names[:maxSpent], "; ")), true
	case len(names) > 0:
		return text + "; " + strings.Join(names, "; "), true
	case len(f.Budgets) == 1:
		return text + ", and allows disruptions now", false
	}
	return text + ", and allow disruptions now", false
}

// maxSpent budgets that allow nothing are named.
const maxSpent = 3

func (f Facts) enforced(b *v1alpha1.MeshPodDisruptionBudget) []Finding {
	r := hold.Of(b)
	var all []Finding
	switch {
	case b.Spec.Suspend:
		all = append(all, Finding{
			Level: Warning, Check: Budgets, Message: fmt.Sprintf("budget %s is suspended in this cluster%s: it blocks no disruption here", r.FullName(), f.sinceText(r.NotEnforcedSince)),
			Fix: fmt.Sprintf("kubectl meshpdb resume %s -n %s --context %s", b.Name, b.Namespace, f.Context),
		})
	case !r.Enforced:
		all = append(all, Finding{Level: Error, Check: Budgets, Message: fmt.Sprintf("budget %s is not enforced%s: %s", r.FullName(), f.sinceText(r.NotEnforcedSince), r.NotEnforced), Fix: enforceFix(b)})
	}
	if n := f.Namespaces[b.Namespace]; n != nil && n.Labels[v1alpha1.NamespaceLabel] != v1alpha1.NamespaceLabelValue && reasonOf(b) != v1alpha1.ReasonProtectedNamespace {
		all = append(all, Finding{
			Level: Error, Check: Budgets, Message: fmt.Sprintf("namespace %s lacks the label %s=%s: no webhook is called there", b.Namespace, v1alpha1.NamespaceLabel, v1alpha1.NamespaceLabelValue),
			Fix: fmt.Sprintf("the controller puts it there; if it stays away: kubectl --context %s label namespace %s %s=%s", f.Context, b.Namespace, v1alpha1.NamespaceLabel, v1alpha1.NamespaceLabelValue),
		})
	}
	return all
}

func reasonOf(b *v1alpha1.MeshPodDisruptionBudget) string {
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEnforced); c != nil {
		return c.Reason
	}
	return ""
}

func enforceFix(b *v1alpha1.MeshPodDisruptionBudget) string {
	switch reasonOf(b) {
	case v1alpha1.ReasonServiceNotFound:
		return fmt.Sprintf("create Service %s/%s, or name another cluster set by spec.clusters", b.Namespace, b.Spec.Service)
	case v1alpha1.ReasonServiceHasNoSelector:
		return fmt.Sprintf("give Service %s/%s a selector", b.Namespace, b.Spec.Service)
	case v1alpha1.ReasonProtectedNamespace:
		return "move the workload to another namespace: what meshpdb needs itself is never held"
	case v1alpha1.ReasonClusterNotInScope:
		return "add this cluster to spec.clusters, in every cluster, or delete the budget here"
	case v1alpha1.ReasonKVStoreUnavailable:
		return "bring this cluster's own ClusterMesh kvstore back: see kvstore"
	}
	return "its controllers: see controllers"
}

// shape examines what a budget asks for, and for how long it has not had it.
func (f Facts) shape(b *v1alpha1.MeshPodDisruptionBudget) []Finding {
	r := hold.Of(b)
	var all []Finding
	say := func(message, fix string) {
		all = append(all, Finding{Level: Warning, Check: Budgets, Message: message, Fix: fix})
	}
	for _, h := range r.HeldBackBy {
		if h.Reason == hold.Never {
			say(h.Sentence+": as it stands it never allows a disruption, so no drain of its nodes ends", h.Frees)
		}
	}
	var bounds []string
	known := f.known()
	for _, c := range r.Clusters {
		if c.Bound != "" && !slices.Contains(bounds, c.Bound) {
			bounds = append(bounds, c.Bound)
		}
		if known != nil && !slices.Contains(known, c.Name) {
			all = append(all, Finding{
				Level: Error, Check: Budgets, Message: fmt.Sprintf("budget %s counts on cluster %s, which is not in this cluster's ClusterMesh configuration", r.FullName(), c.Name),
				Fix: fmt.Sprintf("connect it (cilium clustermesh connect); if it is gone for ever, see what forgetting it would change in this cluster (all that are left must do it): kubectl meshpdb forget %s -A", c.Name),
			})
		}
		if c.Reachable && c.UnavailableSince != nil && f.Now.Sub(c.UnavailableSince.Time) > long {
			say(fmt.Sprintf("budget %s misses pods in cluster %s since %s: %d of %d are available", r.FullName(), c.Name, f.ago(c.UnavailableSince.Time), c.Available, c.Expected), "look at those pods: what keeps them from being Ready holds up every drain")
		}
	}
	if len(bounds) > 1 {
		slices.Sort(bounds)
		say(fmt.Sprintf("clusters state different bounds for budget %s (%s): the strictest holds", r.FullName(), strings.Join(bounds, ", ")), "apply the same spec in every cluster")
	}
	for _, w := range b.Status.Waiting {
		if f.Now.Sub(w.Since.Time) > long {
			say(fmt.Sprintf("%s %s has waited for budget %s since %s: %s", w.Kind, w.Name, r.FullName(), f.ago(w.Since.Time), w.Message), fmt.Sprintf("see who holds it back: kubectl meshpdb status %s -n %s --context %s", b.Name, b.Namespace, f.Context))
			break
		}
	}
	return all
}

// known are the clusters that live replicas are configured for; nil if nobody tells.
func (f Facts) known() []string {
	var all []string
	for _, r := range fresh(f) {
		all = append(all, r.Cluster)
		for _, p := range r.Peers {
			all = append(all, p.Name)
		}
	}
	return all
}

// service examines whether Cilium exports the Service: only exported endpoints can subtract from what meshpdb itself knows.
func (f Facts) service(b *v1alpha1.MeshPodDisruptionBudget) []Finding {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionNotShared)
	s := f.Services[b.Namespace+"/"+b.Spec.Service]
	if c == nil || c.Status != metav1.ConditionTrue || s == nil {
		return nil
	}
	finding := Finding{
		Level: Warning, Check: Services,
		Message: fmt.Sprintf("service %s/%s of budget %s/%s is not exported by Cilium: what the endpoints know is not counted", s.Namespace, s.Name, b.Namespace, b.Name),
		Fix:     fmt.Sprintf("kubectl --context %s -n %s annotate service %s service.cilium.io/global=true --overwrite", f.Context, s.Namespace, s.Name),
	}
	if s.Annotations["service.cilium.io/global"] == "true" {
		finding.Fix = fmt.Sprintf("kubectl --context %s -n %s annotate service %s service.cilium.io/shared-", f.Context, s.Namespace, s.Name)
	}
	return []Finding{finding}
}
