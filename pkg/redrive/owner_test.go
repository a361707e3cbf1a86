package redrive

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podsLike makes pods of letters: + is ready, - is not, x terminates although
// it is ready, f has failed. Their names end in their ordinals.
func podsLike(letters string) []*corev1.Pod {
	var pods []*corev1.Pod
	for i, letter := range letters {
		p := readyPod(fmt.Sprintf("db-%d", i))
		switch letter {
		case '-':
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		case 'x':
			p.DeletionTimestamp = &metav1.Time{}
		case 'f':
			p.Status.Phase = corev1.PodFailed
		}
		pods = append(pods, p)
	}
	return pods
}

func count(n int32) *int32 { return &n }

func statefulSet(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: count(replicas)}, Status: appsv1.StatefulSetStatus{
		ObservedGeneration: 1, CurrentRevision: "a", UpdateRevision: "a", UpdatedReplicas: replicas,
	}}
	s.Generation = 1
	for _, c := range change {
		c(s)
	}
	return s
}

// updating has so many pods updated.
func updating(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Status.UpdateRevision, s.Status.UpdatedReplicas = "b", n }
}

func partition(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
	}
}

func daemonSet(desired, updated, ready int32, rolling *appsv1.RollingUpdateDaemonSet) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: desired, UpdatedNumberScheduled: updated, NumberReady: ready}}
	d.Generation, d.Spec.UpdateStrategy.RollingUpdate = 1, rolling
	return d
}

func rollingBy(unavailable, surge intstr.IntOrString) *appsv1.RollingUpdateDaemonSet {
	return &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &surge}
}

func TestUnfinished(t *testing.T) {
	replicaSet := func(n *int32) *appsv1.ReplicaSet { return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: n}} }
	going := replicaSet(count(0))
	going.DeletionTimestamp = &metav1.Time{}
	zero, one, two, half := intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(2), intstr.FromString("50%")
	parallel := func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
	behind := func(s *appsv1.StatefulSet) { s.Generation = 2 }
	onDelete := func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }
	from1 := func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 1} }
	dsOnDelete := daemonSet(3, 1, 3, nil)
	dsOnDelete.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	dsBehind := daemonSet(3, 1, 3, nil)
	dsBehind.Generation = 2
	for name, c := range map[string]struct {
		owner client.Object
		pods  string
		want  string
	}{
		"replica set, as wanted":       {replicaSet(count(3)), "+++", ""},
		"one too many":                 {replicaSet(count(3)), "++++", "4 pods are left of which 3 are wanted"},
		"too many, not ready":          {replicaSet(count(3)), "+++-", "4 pods"},
		"the surplus terminates":       {replicaSet(count(2)), "++xx", ""},
		"the surplus has failed":       {replicaSet(count(2)), "++f", ""},
		"one by default":               {replicaSet(nil), "++", "of which 1 "},
		"it goes itself":               {going, "+++", ""},
		"replication controller":       {&corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Replicas: count(1)}}, "++", "2 pods are left of which 1 are wanted"},
		"replication controller, done": {&corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Replicas: count(2)}}, "++", ""},

		"stateful set, as wanted":              {statefulSet(3), "+++", ""},
		"beyond its replicas":                  {statefulSet(2), "++++", "2 pods are left beyond the 2 wanted"},
		"beyond, while another is not ready":   {statefulSet(2), "+-+", ""},
		"beyond, while another terminates":     {statefulSet(2), "+++x", ""},
		"beyond, while one is yet to come":     {statefulSet(4), "+++", ""},
		"beyond, not ready, in parallel":       {statefulSet(2, parallel), "+-+", "1 pods are left"},
		"beyond, all terminating, in parallel": {statefulSet(2, parallel), "++xx", ""},
		"ordinals from 1":                      {statefulSet(3, from1), "+++", ""},
		"beyond, ordinals from 1":              {statefulSet(2, from1), "+++", "1 pods are left beyond the 2 wanted"},
		"rolling":                              {statefulSet(3, updating(1)), "+++", "1 of 3 pods are updated"},
		"rolling, one is yet to be ready":      {statefulSet(3, updating(1)), "++-", ""},
		"rolling, one terminates":              {statefulSet(3, updating(1)), "++x", ""},
		"rolling, one is yet to be made":       {statefulSet(3, updating(1)), "++", ""},
		"rolled":                               {statefulSet(3, updating(3)), "+++", ""},
		"rolled to its partition":              {statefulSet(3, updating(1), partition(2)), "+++", ""},
		"rolling to its partition":             {statefulSet(3, updating(1), partition(1)), "+++", "1 of 2 pods are updated"},
		"a partition beyond all":               {statefulSet(3, updating(0), partition(5)), "+++", ""},
		"rolling by hand":                      {statefulSet(3, updating(1), onDelete), "+++", ""},
		"not looked at by its controller yet":  {statefulSet(3, updating(1), behind), "+++", ""},

		"daemon set, as wanted":             {daemonSet(3, 3, 3, nil), "+++", ""},
		"daemons rolling":                   {daemonSet(3, 1, 3, nil), "+++", "1 of 3 pods are updated"},
		"daemons, one is not ready":         {daemonSet(3, 1, 2, nil), "++-", ""},
		"daemons, one terminates":           {daemonSet(3, 1, 3, rollingBy(one, zero)), "++x", ""},
		"daemons, one of two may":           {daemonSet(3, 1, 2, rollingBy(two, zero)), "++-", "1 of 3"},
		"daemons, half of them may":         {daemonSet(4, 1, 3, rollingBy(half, zero)), "+++-", "1 of 4"},
		"daemons, half of them are":         {daemonSet(4, 1, 2, rollingBy(half, zero)), "++--", ""},
		"daemons surging":                   {daemonSet(3, 2, 3, rollingBy(zero, one)), "++++", "2 of 3"},
		"daemons, the surge is not ready":   {daemonSet(3, 2, 3, rollingBy(zero, one)), "+++-", ""},
		"daemons by hand":                   {dsOnDelete, "+++", ""},
		"daemons not looked at yet":         {dsBehind, "+++", ""},
		"a job waits for nothing":           {&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: count(0)}}, "+++", ""},
		"pods without a number are no pods": {statefulSet(0), "", ""},
	} {
		got := unfinished(c.owner, podsLike(c.pods))
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestOrdinal(t *testing.T) {
	for name, want := range map[string]int{"db-0": 0, "db-a-12": 12, "db": -1, "-1": -1, "db-x": -1, "db-": -1, "12": -1} {
		if got, ok := ordinal(name); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: got %d %v", name, got, ok)
		}
	}
}
