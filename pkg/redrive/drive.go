package redrive

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/wire"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// The rates at which something is tried. Each try in vain doubles the pause, until budget was spent meanwhile.
const (
	evictPause, evictLongest = time.Second, 5 * time.Second
	kickPause, kickLongest   = 4 * time.Second, time.Minute
	// placeWait is after how long in vain a pod asks although the budget is spent: others give way to a pod that has
	// waited long (claim.LongWait), but only to one that is asked for again and again.
	placeWait = 10 * time.Second
	// evictTimeout is above the webhooks' timeouts of 10 s each.
	evictTimeout = 25 * time.Second
	readTimeout  = 5 * time.Second
	kickTimeout  = 5 * time.Second
	// burst bounds what one look at a budget evicts.
	burst = 10
)

// roomOf is how many disruptions in this cluster the budget seems to allow: those
// that its status says, and those of pods that the cluster runs beyond what its
// owners ask for. Such pods are not counted, so they cost the budget nothing, but go only while it holds.
func roomOf(b *v1alpha1.MeshPodDisruptionBudget, pods []corev1.Pod) int32 {
	status := &b.Status
	switch {
	case b.Spec.Suspend:
		return math.MaxInt32
	case status.CurrentHealthy < status.DesiredHealthy || len(status.Owners) == 0:
		return status.DisruptionsAllowed
	}
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDisruptionAllowed); c != nil && c.Reason == policyv1.SyncFailedReason {
		// Nothing can be decided.
		return status.DisruptionsAllowed
	}
	available := 0
	for i := range pods {
		if workload.Availability(&pods[i]) == wire.Available {
			available++
		}
	}
	return status.DisruptionsAllowed + int32(max(0, available-workload.Expected(status.Owners)))
}

// pause is what lies between tries, of which so many were in vain.
func pause(first, longest time.Duration, vain int) time.Duration {
	for range vain - 1 {
		if first *= 2; first >= longest {
			return longest
		}
	}
	return first
}

// evictPods evicts what is to leave its node, as far as the budget seems to allow.
func (d *Driver) evictPods(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, room int32, all []sighting) {
	now := time.Now()
	pods := slices.DeleteFunc(slices.Clone(all), func(s sighting) bool { return s.kind != podKind || !s.waits(now) })
	oldest := slices.IndexFunc(pods, func(s sighting) bool { return s.available })
	var keeper subject
	if oldest >= 0 && now.Sub(pods[oldest].since) >= placeWait {
		keeper = pods[oldest].subject
	}
	slices.SortStableFunc(pods, func(a, b sighting) int { return a.tried.Compare(b.tried) })
	for i, tries := 0, 0; i < len(pods) && tries < burst; i++ {
		s := &pods[i]
		wait := pause(evictPause, evictLongest, s.vain)
		if s.available && room <= 0 {
			wait = evictLongest
		}
		mayTry := !s.available || room > 0 || s.subject == keeper
		if !mayTry || now.Sub(s.tried) < wait || !d.turn(ctx, b, s) {
			continue
		}
		tries++
		switch d.evict(ctx, b, s) {
		case resultEvicted:
			if s.available {
				room--
			}
		case resultRefused, resultFailed:
			// The next one would hardly fare better.
			return
		}
	}
}

// turn reports whether it is for this budget to have the pod evicted: the first
// by name of those that cover it, once all others allow it.
func (d *Driver) turn(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, s *sighting) bool {
	pod, err := d.Workload.CachedPod(ctx, b.Namespace, s.name)
	if err != nil || pod == nil || pod.UID != s.uid {
		return false
	}
	covering, err := d.Workload.BudgetsOf(ctx, pod)
	if err != nil {
		return false
	}
	covering = slices.DeleteFunc(covering, func(o v1alpha1.MeshPodDisruptionBudget) bool { return !holds(&o) })
	if len(covering) == 0 || covering[0].Name != b.Name {
		return false
	}
	return !s.available || !slices.ContainsFunc(covering[1:], func(o v1alpha1.MeshPodDisruptionBudget) bool {
		pods, err := d.pods(ctx, &o)
		return err != nil || roomOf(&o, pods) <= 0
	})
}

// evict evicts one pod, if its node still drives it away.
func (d *Driver) evict(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, s *sighting) result {
	stands, err := d.stillDriven(ctx, b.Namespace, s)
	if err == nil && stands {
		err = d.askEviction(ctx, b.Namespace, s)
	}
	d.note(keyOf(b), s.subject, func(s *sighting) { s.tried = time.Now(); s.vain++ })
	if err == nil && !stands {
		// The informers are about to show it.
		return resultGone
	}
	r := resultEvicted
	switch {
	case err == nil:
	case ctx.Err() != nil:
		// We are stopping: it tells nothing of the pod.
		return resultFailed
	case apierrors.IsTooManyRequests(err):
		r = resultRefused
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		r = resultGone
	default:
		r = resultFailed
		d.Log.Error(err, "evict pod", "pod", b.Namespace+"/"+s.name)
	}
	d.Reporter.redriven(b, s, r)
	return r
}

func (d *Driver) askEviction(ctx context.Context, namespace string, s *sighting) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: s.name}}
	eviction := &policyv1.Eviction{
		ObjectMeta:    pod.ObjectMeta,
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}},
	}
	return d.Client.SubResource("eviction").Create(ctx, pod, eviction)
}

// stillDriven asks the API server itself whether the pod is still to leave its node.
func (d *Driver) stillDriven(ctx context.Context, namespace string, s *sighting) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	node, err := d.Workload.Node(ctx, s.node)
	if err != nil || node == nil {
		return false, err
	}
	pod, err := d.Workload.Pod(ctx, namespace, s.name)
	if err != nil || pod == nil || pod.UID != s.uid || !isActive(pod) {
		return false, err
	}
	departure, leaves := leaves(workload.Evicting(node), pod.Spec.Tolerations, s.first)
	return leaves && !departure.at.After(time.Now()), nil
}

// kickOwners has the controllers of owners try again while the budget allows something.
func (d *Driver) kickOwners(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, room int32, all []sighting) {
	now := time.Now()
	for i := range all {
		s := &all[i]
		if s.owner == nil || !s.waits(now) || room <= 0 || now.Sub(s.tried) < pause(kickPause, kickLongest, s.vain) {
			continue
		}
		kicked, err := d.kick(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d.Log.Error(err, "have a controller try again", "kind", s.kind, "owner", b.Namespace+"/"+s.name)
			d.Reporter.redriven(b, s, resultFailed)
		}
		if kicked {
			d.Reporter.redriven(b, s, resultKicked)
		}
		d.note(keyOf(b), s.subject, func(s *sighting) { s.tried = time.Now(); s.vain++ })
	}
}

// kick annotates an owner unless it was kicked a moment ago, for another budget
// or by a leader before this one. It does so by the status subresource, by which
// metadata can be changed and the spec cannot: nobody who may do this can change
// what pods an owner makes.
func (d *Driver) kick(ctx context.Context, s *sighting) (bool, error) {
	last, err := time.Parse(time.RFC3339, s.owner.GetAnnotations()[v1alpha1.KickedAtAnnotation])
	if err == nil && time.Since(last) < kickPause && time.Since(last) >= 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	// The UID is a precondition. What the answer holds is not for the informer's object.
	body := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, s.uid, v1alpha1.KickedAtAnnotation, time.Now().UTC().Format(time.RFC3339))
	owner := s.owner.DeepCopyObject().(client.Object)
	err = d.Client.Status().Patch(ctx, owner, client.RawPatch(types.MergePatchType, []byte(body)))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return false, nil
	}
	return err == nil, err
}

func keyOf(o client.Object) types.NamespacedName { return client.ObjectKeyFromObject(o) }
