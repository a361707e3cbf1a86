package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// question asks for the state of the budget, from the cached views.
func (r *Budgets) question(b *v1alpha1.MeshPodDisruptionBudget, scope []string) budget.Question {
	query := mesh.Query{Namespace: b.Namespace, Budgets: []mesh.BudgetRef{{Name: b.Name, Service: b.Spec.Service}}}
	covering := workload.Covering(b)
	covering.Clusters = scope
	var snapshots []claim.Snapshot
	for _, c := range scope {
		snapshots = append(snapshots, r.Views.Cached(c, query))
	}
	standing := claim.Standing(snapshots)
	// What is being decided is no news yet, and saying so would be one more write for every decision.
	maps.DeleteFunc(standing, func(_ string, c budget.Claim) bool { return c != budget.Granted })
	q := claim.Question(covering, "", "", snapshots, standing)
	for i, c := range q.Clusters {
		known := slices.IndexFunc(b.Status.Clusters, func(s v1alpha1.ClusterStatus) bool { return s.Name == c.Name })
		if c.Unread != "" && known >= 0 {
			// Its pods are still expected, although nobody can see them.
			q.Clusters[i].Expected = int(b.Status.Clusters[known].ExpectedPods)
		}
	}
	return q
}

// clusterStatus is one cluster's row. What an unreachable cluster said last is kept.
func clusterStatus(c budget.Cluster, old []v1alpha1.ClusterStatus) v1alpha1.ClusterStatus {
	row := v1alpha1.ClusterStatus{Name: c.Name}
	i := slices.IndexFunc(old, func(s v1alpha1.ClusterStatus) bool { return s.Name == c.Name })
	if i >= 0 {
		row = old[i]
	}
	if i < 0 || row.Reachable != (c.Unread == "") {
		row.Since = metav1.Now().Rfc3339Copy()
	}
	row.Reachable, row.Message = c.Unread == "", c.Unread
	row.CurrentHealthy, row.DisruptionsInFlight = 0, 0
	if len(c.Bounds) > 0 {
		row.Bound = c.Bounds[0].String()
	}
	if c.Unread != "" {
		if row.Bound == "" {
			row.Message += "; if it takes no part in this budget, name those that do in spec.clusters"
		}
		return row
	}
	row.ExpectedPods = int32(c.Expected)
	for _, p := range c.Pods {
		switch {
		case p.Claim == budget.Granted || p.Terminating:
			row.DisruptionsInFlight++
		case p.Available:
			row.CurrentHealthy++
		}
	}
	switch {
	case row.CurrentHealthy >= row.ExpectedPods:
		row.ShortSince = nil
	case row.ShortSince == nil:
		row.ShortSince = ptr.To(metav1.Now().Rfc3339Copy())
	}
	return row
}

// setDisruptionAllowed uses the condition and the reasons of policy/v1.
func setDisruptionAllowed(status *v1alpha1.MeshPodDisruptionBudgetStatus, generation int64, d budget.Decision) {
	c := metav1.Condition{
		Type: v1alpha1.ConditionDisruptionAllowed, ObservedGeneration: generation,
		Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, Message: d.Sentence,
	}
	switch {
	case d.Allowed() > 0:
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	case d.Reason != budget.Insufficient && d.Reason != budget.Enough:
		c.Reason = policyv1.SyncFailedReason
	}
	meta.SetStatusCondition(&status.Conditions, c)
}

// conditions sets Enforced and NotShared.
func (r *Budgets) conditions(b *v1alpha1.MeshPodDisruptionBudget, status *v1alpha1.MeshPodDisruptionBudgetStatus, exported bool, problem error) {
	enforced := metav1.Condition{
		Type: v1alpha1.ConditionEnforced, ObservedGeneration: b.Generation, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonEnforced, Message: "disruptions of the service's pods in this cluster are admitted by meshpdb",
	}
	no := func(reason, message string) {
		enforced.Status, enforced.Reason, enforced.Message = metav1.ConditionFalse, reason, message
	}
	var p *workload.Problem
	problems := r.Publisher.Problems()
	switch {
	case errors.As(problem, &p):
		no(p.Reason, p.Message)
	case b.Spec.Suspend:
		no(v1alpha1.ReasonSuspended, "spec.suspend is set: disruptions in this cluster go whatever the budget says; the other clusters still keep to it")
	case len(problems) > 0:
		// Always the same one: each change of the message is a write.
		instance := slices.Min(slices.Collect(maps.Keys(problems)))
		no(v1alpha1.ReasonKVStoreUnavailable, fmt.Sprintf("instance %s of the own ClusterMesh kvstore is not in service: %v", instance, problems[instance]))
	}
	if errors.As(problem, &p) || b.Spec.Suspend || !starting(problems) {
		meta.SetStatusCondition(&status.Conditions, enforced)
	}
	shared := metav1.Condition{
		Type: v1alpha1.ConditionNotShared, ObservedGeneration: b.Generation, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonShared, Message: "Cilium exports the service's endpoints; they can only subtract from what meshpdb publishes",
	}
	if !exported {
		shared.Status, shared.Reason = metav1.ConditionTrue, v1alpha1.ReasonNotExported
		shared.Message = "Cilium does not export the service from this cluster (service.cilium.io/global and shared), so the records that meshpdb publishes count alone"
	}
	meta.SetStatusCondition(&status.Conditions, shared)
}

// waiting tells what waits. While that cannot be known, what the status says stands.
func (r *Budgets) waiting(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, status *v1alpha1.MeshPodDisruptionBudgetStatus, own share) {
	waiting, count, err := r.Waits.Observe(ctx, b, own.covered)
	if err != nil {
		r.Log.V(1).Info("what waits is not known", "budget", b.Namespace+"/"+b.Name, "cause", err.Error())
		return
	}
	status.Waiting, status.WaitingDisruptions = waiting, count
}

// starting reports that nothing is known of the instances yet. What the
// condition said before stands meanwhile: to call all budgets unenforced for the
// moment that a new leader takes would be two writes to each.
func starting(problems map[string]error) bool {
	for _, err := range problems {
		if !errors.Is(err, publish.ErrStarting) {
			return false
		}
	}
	return len(problems) > 0
}

// announce records an Event when a condition that people wait for changes.
func (r *Budgets) announce(b *v1alpha1.MeshPodDisruptionBudget, status *v1alpha1.MeshPodDisruptionBudgetStatus) {
	now := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionEnforced)
	before := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEnforced)
	if now != nil && (before == nil || before.Status != now.Status || before.Reason != now.Reason) {
		kind := corev1.EventTypeNormal
		if now.Status != metav1.ConditionTrue {
			kind = corev1.EventTypeWarning
		}
		r.Recorder.Eventf(b, nil, kind, now.Reason, "Enforce", "%s", now.Message)
	}
	for _, c := range status.Clusters {
		i := slices.IndexFunc(b.Status.Clusters, func(o v1alpha1.ClusterStatus) bool { return o.Name == c.Name })
		if c.Name == r.Cluster && c.Bound == "" {
			// It is published next; a new budget need not begin with a warning.
			continue
		}
		if c.Reachable || i >= 0 && !b.Status.Clusters[i].Reachable && b.Status.Clusters[i].Message == c.Message {
			continue
		}
		r.Recorder.Eventf(b, nil, corev1.EventTypeWarning, "ClusterNotRead", "Read", "cluster %s: %s", c.Name, c.Message)
	}
}
