package redrive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

const (
	// lookAgain is how soon what waits is looked at again, in memory only.
	lookAgain = time.Second
	// idleLook mends what is overlooked by mistake.
	idleLook = 5 * time.Minute
)

// Reconcile looks at one budget, tells of what waits for it, and does what it
// allows.
func (d *Driver) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var b v1alpha1.MeshPodDisruptionBudget
	err := d.Client.Get(ctx, request.NamespacedName, &b)
	if apierrors.IsNotFound(err) || err == nil && !holds(&b) {
		d.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read budget: %w", err)
	}
	pods, err := d.pods(ctx, &b)
	if err != nil {
		return ctrl.Result{}, err
	}
	all, err := d.look(ctx, &b, pods)
	if err != nil {
		return ctrl.Result{}, err
	}
	now := time.Now()
	waiting, count := shown(all, now)
	if count != b.Status.WaitingDisruptions || !equality.Semantic.DeepEqual(waiting, b.Status.Waiting) {
		d.Changed(b.Namespace, b.Name)
	}
	d.announce(&b, all, now)
	room := roomOf(&b, pods)
	d.kickOwners(ctx, &b, room, all)
	d.evictPods(ctx, &b, room, all)
	return ctrl.Result{RequeueAfter: again(all, now)}, nil
}

// again is when to look again if nothing is heard.
func again(all []sighting, now time.Time) time.Duration {
	next := idleLook
	for i := range all {
		if all[i].waits(now) {
			return lookAgain
		}
		next = min(next, all[i].due.Sub(now))
	}
	return next
}

// holds reports whether the budget holds up anything in this cluster. One that
// was never reconciled does not yet.
func holds(b *v1alpha1.MeshPodDisruptionBudget) bool {
	enforced := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEnforced)
	if b.DeletionTimestamp != nil || enforced == nil {
		return false
	}
	none := []string{v1alpha1.ReasonProtectedNamespace, v1alpha1.ReasonClusterNotInScope}
	return enforced.Status == metav1.ConditionTrue || !slices.Contains(none, enforced.Reason)
}

// pods returns the covered pods.
func (d *Driver) pods(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget) ([]corev1.Pod, error) {
	service, err := d.Workload.Service(ctx, b)
	service, err = workload.StandIn(b, service, err)
	var problem *workload.Problem
	if errors.As(err, &problem) {
		// It covers nothing.
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d.Workload.Pods(ctx, service)
}

// announce tells people what has begun to wait.
func (d *Driver) announce(b *v1alpha1.MeshPodDisruptionBudget, all []sighting, now time.Time) {
	for i := range all {
		s := &all[i]
		if s.announced || !s.waits(now) {
			continue
		}
		d.Reporter.waits(b, s)
		d.note(keyOf(b), s.subject, func(s *sighting) { s.announced = true })
	}
}
