package redrive

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Kubernetes itself goes first: it is left this long before something counts as
// waiting. Most of what it does is done by then.
const (
	// taintPatience is for the taint manager's attempts, and for a node that is untainted at once.
	taintPatience = 5 * time.Second
	// ownerPatience is for a controller's first attempts, which come 5 ms to 1 s apart.
	ownerPatience = 2 * time.Second
)

// subject is what waits.
type subject struct {
	kind, name string
	uid        types.UID
}

// finding is what the informers show of a subject.
type finding struct {
	subject
	// Of a pod: its node, whether the budget counts it, and what drives it away.
	node        string
	available   bool
	taints      []corev1.Taint
	tolerations []corev1.Toleration
	// Of an owner: itself, and what it has yet to do.
	owner    client.Object
	sentence string
}

// sighting is a finding over time.
type sighting struct {
	finding
	// first is when the informers showed it first, to this process.
	first time.Time
	// since is when it began to wait, also to a leader before this one, and due when it counts.
	since, due time.Time
	announced  bool
	// tried is when it was redriven last, and vain how often that changed nothing since budget freed.
	tried time.Time
	vain  int
}

// update takes over what is found now; false if nothing is to be done.
func (s *sighting) update(f finding, now time.Time, spent bool) bool {
	sentence := s.sentence
	s.finding = f
	switch {
	case f.kind == podKind:
		d, leaves := leaves(f.taints, f.tolerations, s.first)
		if !leaves {
			return false
		}
		s.sentence = d.sentence(f.node)
		if s.since.IsZero() || s.due.After(now) {
			s.since, s.due = d.at, d.at.Add(taintPatience)
		}
	case s.since.IsZero():
		s.since, s.due = s.first, s.first.Add(ownerPatience)
	}
	if spent || s.sentence != sentence {
		s.vain = 0
	}
	return true
}

// resume continues what a leader before this one has told of.
func (s *sighting) resume(told []v1alpha1.WaitingDisruption) {
	i := slices.IndexFunc(told, func(w v1alpha1.WaitingDisruption) bool { return w.Kind == s.kind && w.Name == s.name })
	if i >= 0 {
		s.since, s.due, s.announced = told[i].Since.Time, told[i].Since.Time, true
	}
}

func (s *sighting) waits(now time.Time) bool { return !now.Before(s.due) }

func (s *sighting) reason() v1alpha1.WaitingReason {
	if s.kind == podKind {
		return v1alpha1.WaitingTaintEviction
	}
	return v1alpha1.WaitingScaleDownOrRollout
}

// shown is what the status tells of sightings, which are sorted.
func shown(all []sighting, now time.Time) (waiting []v1alpha1.WaitingDisruption, count int32) {
	for i := range all {
		s := &all[i]
		if !s.waits(now) {
			continue
		}
		if count++; count <= v1alpha1.MaxWaiting {
			waiting = append(waiting, v1alpha1.WaitingDisruption{
				Kind: s.kind, Name: s.name, Reason: s.reason(), Since: metav1.NewTime(s.since).Rfc3339Copy(), Message: s.sentence,
			})
		}
	}
	return waiting, count
}

// bySince puts what has waited longest first.
func bySince(a, b sighting) int {
	return cmp.Or(a.since.Truncate(time.Second).Compare(b.since.Truncate(time.Second)), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
}
