package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Witness records every change of the workload's pods, in the order in which
// the API servers tell them, and replays it to find the worst moment.
type Witness struct {
	workload *Workload

	mu     sync.Mutex
	events []sighting
	// blind is when a cluster could not be watched last.
	blind map[string]blindness

	cancel context.CancelFunc
	done   sync.WaitGroup
}

type sighting struct {
	// at is when it was seen; since, if set, the earliest moment at which it may
	// have become so, where the API server could not be watched.
	at, since time.Time
	cluster   string
	uid, name string
	available bool
	ending    bool
	gone      bool
}

// Watch starts a witness; Stop ends it. It has seen every pod when it returns.
func (w *Workload) Watch(ctx context.Context) (*Witness, error) {
	ctx, cancel := context.WithCancel(ctx)
	witness := &Witness{workload: w, cancel: cancel, blind: map[string]blindness{}}
	for _, c := range w.Clusters {
		version, err := witness.list(ctx, c)
		if err != nil {
			cancel()
			return nil, err
		}
		witness.done.Go(func() { witness.follow(ctx, c, version) })
	}
	return witness, nil
}

// list takes in the pods that stand, and that others have gone.
func (w *Witness) list(ctx context.Context, c *Cluster) (version string, err error) {
	list, err := c.Client.CoreV1().Pods(w.workload.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.workload.Selector()})
	if err != nil {
		return "", fmt.Errorf("list pods of %s: %w", c.Name, err)
	}
	standing := map[string]bool{}
	for i := range list.Items {
		standing[string(list.Items[i].UID)] = true
	}
	w.vanished(c.Name, standing)
	for i := range list.Items {
		w.saw(c.Name, &list.Items[i], false)
	}
	return list.ResourceVersion, nil
}

// resumePause is how long an API server that does not answer is left alone.
const resumePause = 50 * time.Millisecond

// follow watches one cluster. A watch that ends is resumed where it ended, so
// nothing is missed. Where an API server that was restarted no longer knows
// that place, the pods are listed: nobody could disrupt any while it was down.
// A cluster that could not be watched at the end spoils the testimony.
func (w *Witness) follow(ctx context.Context, c *Cluster, version string) {
	for {
		var err error
		if version == "" {
			version, err = w.list(ctx, c)
		}
		if err == nil {
			version, err = w.watch(ctx, c, version)
		}
		if ctx.Err() != nil {
			return
		}
		w.lost(c.Name, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(resumePause):
		}
	}
}

// watch takes in what happens from version on, until the watch ends, and
// returns where to go on; "" if that is not known.
func (w *Witness) watch(ctx context.Context, c *Cluster, version string) (string, error) {
	stream, err := c.Client.CoreV1().Pods(w.workload.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: w.workload.Selector(), ResourceVersion: version})
	switch {
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return "", nil
	case err != nil:
		return version, fmt.Errorf("watch pods of %s: %w", c.Name, err)
	}
	w.found(c.Name)
	for event := range stream.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			return "", nil
		}
		version = pod.ResourceVersion
		w.saw(c.Name, pod, event.Type == watch.Deleted)
	}
	return version, nil
}

// blindness is a stretch in which a cluster could not be watched.
type blindness struct {
	from, to time.Time
	err      error
}

// catchUp is how long after a stretch of blindness what is told may have happened in it.
const catchUp = time.Second

// since returns the earliest moment at which what is seen now may have happened.
func (b blindness) since(now time.Time) time.Time {
	if !b.from.IsZero() && (b.to.IsZero() || now.Sub(b.to) < catchUp) {
		return b.from
	}
	return now
}

// lost takes in that a cluster cannot be watched.
func (w *Witness) lost(cluster string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.blind[cluster]
	if b.from.IsZero() || !b.to.IsZero() {
		b = blindness{from: time.Now()}
	}
	if err != nil {
		b.err = err
	}
	w.blind[cluster] = b
}

// found takes in that a cluster can be watched again.
func (w *Witness) found(cluster string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.blind[cluster]; !b.from.IsZero() && b.to.IsZero() {
		w.blind[cluster] = blindness{from: b.from, to: time.Now()}
	}
}

// vanished takes in that a cluster's pods have gone, except for those that stand.
func (w *Witness) vanished(cluster string, standing map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := map[string]sighting{}
	for _, e := range w.events {
		last[e.uid] = e
	}
	for uid, e := range last {
		if e.cluster == cluster && !e.gone && !standing[uid] {
			e.at, e.gone, e.available = time.Now(), true, false
			e.since = w.blind[cluster].since(e.at)
			w.events = append(w.events, e)
		}
	}
}

func (w *Witness) saw(cluster string, pod *corev1.Pod, gone bool) {
	ready := false
	for _, c := range pod.Status.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.events = append(w.events, sighting{
		at: now, since: w.blind[cluster].since(now), cluster: cluster, uid: string(pod.UID), name: pod.Name, gone: gone, ending: pod.DeletionTimestamp != nil,
		available: ready && !gone && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning,
	})
}

// Testimony is what a Witness saw.
type Testimony struct {
	// Expected is the number of pods that there should be.
	Expected int
	// WorstUnavailable is the largest number of pods that were missing at one moment, and WorstAt when.
	WorstUnavailable int
	WorstAt          time.Time
	// Deletions is how many pods began to terminate.
	Deletions int
}

// Now returns the number of available pods by cluster.
func (w *Witness) Now() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	available := map[string]int{}
	for _, c := range w.workload.Clusters {
		available[c.Name] = 0
	}
	last := map[string]sighting{}
	for _, e := range w.events {
		last[e.uid] = e
	}
	for _, e := range last {
		if e.available {
			available[e.cluster]++
		}
	}
	return available
}

// SoFar replays what the witness has seen until now.
func (w *Witness) SoFar() Testimony {
	w.mu.Lock()
	defer w.mu.Unlock()
	return replay(w.events, w.workload.Expected())
}

// Await calls reached once so many pods are missing at one moment, unless ctx ends first.
func (w *Witness) Await(ctx context.Context, missing int, reached func()) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		worst := replay(w.events, w.workload.Expected()).WorstUnavailable
		w.mu.Unlock()
		if worst >= missing {
			reached()
			return
		}
	}
}

// Stop ends the watches and replays what they told.
func (w *Witness) Stop() (Testimony, error) {
	w.cancel()
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, b := range w.blind {
		errs = append(errs, b.err)
	}
	return replay(w.events, w.workload.Expected()), errors.Join(errs...)
}

// earliest returns the first moment at which it may have become so, by the
// order in which API servers tell.
func (e sighting) earliest() time.Time {
	if e.since.IsZero() {
		return e.at
	}
	return e.since
}

// change is when a pod became available, or ceased to be.
type change struct {
	at, seen  time.Time
	uid       string
	available bool
}

// changes reduces sightings to the moments at which pods changed. Where a
// moment is not known, it takes the one in favour of those who decided: the earliest for a pod
// that becomes available, which is not before it ceased to be, and the latest for one that ceases.
func changes(events []sighting) []change {
	var all []change
	last := map[string]change{}
	for _, e := range events {
		before := last[e.uid]
		if e.available == before.available {
			continue
		}
		c := change{at: e.at, seen: e.at, uid: e.uid, available: e.available}
		if e.available {
			c.at = slices.MaxFunc([]time.Time{e.earliest(), before.at}, time.Time.Compare)
		}
		last[e.uid] = c
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b change) int { return a.at.Compare(b.at) })
	return all
}

// replay finds the worst moment. The pods that stood when the witness began
// are its first events, so counting starts once as many are available as
// there should be.
func replay(events []sighting, expected int) Testimony {
	t := Testimony{Expected: expected}
	available := map[string]bool{}
	begun := false
	for _, c := range changes(events) {
		if c.available {
			available[c.uid] = true
		} else {
			delete(available, c.uid)
			t.Deletions++
		}
		begun = begun || len(available) >= expected
		if missing := expected - len(available); begun && missing > t.WorstUnavailable {
			t.WorstUnavailable, t.WorstAt = missing, c.seen
		}
	}
	return t
}
