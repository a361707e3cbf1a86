package redrive

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/wire"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Config of a Driver; everything is required.
type Config struct {
	// Client reads from informers, evicts pods and patches owners.
	Client   client.Client
	Workload *workload.Workload
	// Taints of nodes that somebody wants empty.
	Taints *workload.Taints
	// Changed is told a budget of which something else waits than its status says. It must not block.
	Changed func(namespace, name string)
	// Reporter tells people.
	Reporter *Reporter
	Log      logr.Logger
}

// Driver finds what waits for budgets, and does it when they allow.
type Driver struct {
	Config

	mu sync.Mutex
	// sightings remember since when something is so, where the API does not tell.
	sightings map[types.NamespacedName]map[subject]*sighting
}

// New returns a Driver that has seen nothing yet.
func New(config Config) *Driver {
	return &Driver{Config: config, sightings: map[types.NamespacedName]map[subject]*sighting{}}
}

const podKind = "Pod"

// Observe returns what waits for a budget in this cluster, of which pods are
// the covered pods: those that have waited longest, and how many there are. An
// error means that it cannot be known now.
func (d *Driver) Observe(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, pods []corev1.Pod) ([]v1alpha1.WaitingDisruption, int32, error) {
	all, err := d.look(ctx, b, pods)
	if err != nil {
		return nil, 0, err
	}
	waiting, count := shown(all, time.Now())
	return waiting, count, nil
}

// look returns all sightings of a budget, longest first, ripe or not.
func (d *Driver) look(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, pods []corev1.Pod) ([]sighting, error) {
	if err := d.Taints.Synced(); err != nil {
		return nil, err
	}
	driven, err := d.driven(ctx, pods)
	if err != nil {
		return nil, err
	}
	owners, err := d.owners(ctx, b.Namespace, pods)
	if err != nil {
		return nil, err
	}
	return d.remember(b, append(driven, owners...), roomOf(b, pods) <= 0), nil
}

// remember brings the sightings of a budget, spent or not, in line with what is found.
func (d *Driver) remember(b *v1alpha1.MeshPodDisruptionBudget, found []finding, spent bool) []sighting {
	now, key := time.Now(), client.ObjectKeyFromObject(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.sightings[key]
	after := map[subject]*sighting{}
	var all []sighting
	for _, f := range found {
		s := before[f.subject]
		if s == nil {
			s = &sighting{finding: f, first: now}
			s.resume(b.Status.Waiting)
		}
		if s.update(f, now, spent) {
			after[f.subject] = s
			all = append(all, *s)
		}
	}
	if delete(d.sightings, key); len(after) > 0 {
		d.sightings[key] = after
	}
	slices.SortFunc(all, bySince)
	return all
}

// note changes a sighting, if it still stands.
func (d *Driver) note(budget types.NamespacedName, of subject, change func(*sighting)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sightings[budget][of]; s != nil {
		change(s)
	}
}

func (d *Driver) forget(budget types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sightings, budget)
}

// driven returns the pods that are to leave their nodes, now or later.
func (d *Driver) driven(ctx context.Context, pods []corev1.Pod) ([]finding, error) {
	var found []finding
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName == "" || !isActive(p) {
			continue
		}
		taints := d.Taints.Of(p.Spec.NodeName)
		if len(taints) == 0 {
			continue
		}
		// Pods come without their tolerations where many are selected.
		whole, err := d.Workload.CachedPod(ctx, p.Namespace, p.Name)
		if err != nil {
			return nil, err
		}
		if whole == nil || whole.UID != p.UID {
			continue
		}
		found = append(found, finding{
			subject: subject{podKind, p.Name, p.UID}, node: p.Spec.NodeName, available: workload.Availability(p) == wire.Available,
			taints: taints, tolerations: whole.Spec.Tolerations,
		})
	}
	return found, nil
}

// owners returns those that cannot finish.
func (d *Driver) owners(ctx context.Context, namespace string, pods []corev1.Pod) ([]finding, error) {
	owned := map[metav1.OwnerReference][]*corev1.Pod{}
	for i := range pods {
		if ref := metav1.GetControllerOfNoCopy(&pods[i]); ref != nil {
			key := metav1.OwnerReference{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name, UID: ref.UID}
			owned[key] = append(owned[key], &pods[i])
		}
	}
	var found []finding
	for ref, pods := range owned {
		owner := emptyOwner(ref.APIVersion, ref.Kind)
		if owner == nil {
			continue
		}
		err := d.Workload.Cached.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, owner)
		if apierrors.IsNotFound(err) || err == nil && owner.GetUID() != ref.UID {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s %s/%s: %w", ref.Kind, namespace, ref.Name, err)
		}
		if sentence := unfinished(owner, pods); sentence != "" {
			found = append(found, finding{subject: subject{ref.Kind, ref.Name, ref.UID}, owner: owner, sentence: sentence})
		}
	}
	return found, nil
}

// emptyOwner returns an object of a kind whose controller puts off what was
// refused; nil for any other.
func emptyOwner(apiVersion, kind string) client.Object {
	switch apiVersion + " " + kind {
	case "apps/v1 ReplicaSet":
		return &appsv1.ReplicaSet{}
	case "v1 ReplicationController":
		return &corev1.ReplicationController{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "apps/v1 DaemonSet":
		return &appsv1.DaemonSet{}
	}
	return nil
}
