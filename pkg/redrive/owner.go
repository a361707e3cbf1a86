package redrive

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/wire"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// unfinished says what an owner's controller has yet to delete of the owner's
// pods. It is empty if that is nothing, or if it waits for something else than
// a budget: for pods to end or to become ready.
func unfinished(owner client.Object, pods []*corev1.Pod) string {
	if owner.GetDeletionTimestamp() != nil {
		return ""
	}
	switch o := owner.(type) {
	case *appsv1.ReplicaSet:
		return surplus(pods, o.Spec.Replicas)
	case *corev1.ReplicationController:
		return surplus(pods, o.Spec.Replicas)
	case *appsv1.StatefulSet:
		return unfinishedStatefulSet(o, pods)
	case *appsv1.DaemonSet:
		return unfinishedDaemonSet(o, pods)
	}
	return ""
}

// surplus counts as the ReplicaSet controller does: pods that neither ended nor terminate.
func surplus(pods []*corev1.Pod, replicas *int32) string {
	active, wanted := 0, wants(replicas)
	for _, p := range pods {
		if isActive(p) {
			active++
		}
	}
	if active <= wanted {
		return ""
	}
	return fmt.Sprintf("%d pods are left of which %d are wanted", active, wanted)
}

// unfinishedStatefulSet follows updateStatefulSet in
// pkg/controller/statefulset: pods beyond the replicas go first, then outdated
// ones, and in order only while all others are ready.
func unfinishedStatefulSet(o *appsv1.StatefulSet, pods []*corev1.Pod) string {
	wanted, start := wants(o.Spec.Replicas), 0
	if o.Spec.Ordinals != nil {
		start = int(o.Spec.Ordinals.Start)
	}
	beyond, ready := 0, 0
	settled := true
	for _, p := range pods {
		n, ok := ordinal(p.Name)
		switch {
		case !ok:
			continue
		case n < start || n >= start+wanted:
			if isActive(p) {
				beyond++
			}
		case workload.Availability(p) == wire.Available:
			ready++
		}
		settled = settled && workload.Availability(p) == wire.Available
	}
	settled = settled && ready == wanted
	switch {
	case beyond > 0 && (settled || o.Spec.PodManagementPolicy == appsv1.ParallelPodManagement):
		return fmt.Sprintf("%d pods are left beyond the %d wanted", beyond, wanted)
	case beyond > 0 || !settled:
		return ""
	}
	return outdated(o, wanted)
}

// outdated tells of a rolling update of which every pod so far is ready.
func outdated(o *appsv1.StatefulSet, wanted int) string {
	strategy, status := o.Spec.UpdateStrategy, o.Status
	if strategy.Type == appsv1.OnDeleteStatefulSetStrategyType || status.ObservedGeneration < o.Generation || status.CurrentRevision == status.UpdateRevision {
		return ""
	}
	if strategy.RollingUpdate != nil && strategy.RollingUpdate.Partition != nil {
		wanted -= int(*strategy.RollingUpdate.Partition)
	}
	if int(status.UpdatedReplicas) >= wanted {
		return ""
	}
	return fmt.Sprintf("%d of %d pods are updated", status.UpdatedReplicas, wanted)
}

// unfinishedDaemonSet follows rollingUpdate in pkg/controller/daemon.
func unfinishedDaemonSet(o *appsv1.DaemonSet, pods []*corev1.Pod) string {
	status := o.Status
	desired := int(status.DesiredNumberScheduled)
	if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType || status.ObservedGeneration < o.Generation || int(status.UpdatedNumberScheduled) >= desired {
		return ""
	}
	unavailable, unsettled := desired-int(status.NumberReady), 0
	for _, p := range pods {
		if workload.Availability(p) != wire.Available {
			unsettled++
		}
		if p.DeletionTimestamp != nil && workload.IsReady(p) {
			// The controller's count still has it.
			unavailable++
		}
	}
	surges, most := rolling(o.Spec.UpdateStrategy.RollingUpdate, desired)
	if surges && unsettled > 0 || unavailable >= most {
		return ""
	}
	return fmt.Sprintf("%d of %d pods are updated", status.UpdatedNumberScheduled, desired)
}

// rolling returns whether new pods come before old ones go, and below how many
// unavailable pods an old one may go.
func rolling(r *appsv1.RollingUpdateDaemonSet, desired int) (surges bool, most int) {
	if r == nil {
		return false, 1
	}
	scaled := func(v *intstr.IntOrString) int {
		if v == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, desired, true)
		if err != nil {
			// The API server admits nothing like it.
			return 0
		}
		return n
	}
	return scaled(r.MaxSurge) > 0, max(scaled(r.MaxUnavailable), 1)
}

func isActive(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && !workload.IsTerminal(p) }

func wants(replicas *int32) int {
	if replicas == nil {
		return 1
	}
	return int(*replicas)
}

// ordinal is the number at the end of the name of a StatefulSet's pod.
func ordinal(name string) (int, bool) {
	i := strings.LastIndexByte(name, '-')
	n, err := strconv.Atoi(name[i+1:])
	return n, err == nil && i > 0 && n >= 0
}
