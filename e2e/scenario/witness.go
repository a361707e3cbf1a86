package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Witness records every change of the workload's pods, in the order in which
// the API servers tell them, and replays it to find the worst moment.
type Witness struct {
	workload *Workload

	mu     sync.Mutex
	events []sighting
	err    error

	cancel context.CancelFunc
	done   sync.WaitGroup
}

type sighting struct {
	at        time.Time
	cluster   string
	uid, name string
	available bool
	ending    bool
	gone      bool
}

// Watch starts a witness; Stop ends it. It has seen every pod when it returns.
func (w *Workload) Watch(ctx context.Context) (*Witness, error) {
	ctx, cancel := context.WithCancel(ctx)
	witness := &Witness{workload: w, cancel: cancel}
	for _, c := range w.Clusters {
		list, err := c.Client.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.Selector()})
		if err != nil {
			cancel()
			return nil, fmt.Errorf("list pods of %s: %w", c.Name, err)
		}
		for i := range list.Items {
			witness.saw(c.Name, &list.Items[i], false)
		}
		witness.done.Go(func() { witness.follow(ctx, c, list.ResourceVersion) })
	}
	return witness, nil
}

// follow watches one cluster. A watch that ends is resumed where it ended, so
// nothing is missed; one that cannot be resumed spoils the testimony.
func (w *Witness) follow(ctx context.Context, c *Cluster, version string) {
	for ctx.Err() == nil {
		stream, err := c.Client.CoreV1().Pods(w.workload.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: w.workload.Selector(), ResourceVersion: version})
		if err != nil {
			w.fail(ctx, fmt.Errorf("watch pods of %s: %w", c.Name, err))
			return
		}
		for event := range stream.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				w.fail(ctx, fmt.Errorf("watch pods of %s: %v", c.Name, event.Object))
				return
			}
			version = pod.ResourceVersion
			w.saw(c.Name, pod, event.Type == watch.Deleted)
		}
	}
}

func (w *Witness) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

func (w *Witness) saw(cluster string, pod *corev1.Pod, gone bool) {
	ready := false
	for _, c := range pod.Status.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, sighting{
		at: time.Now(), cluster: cluster, uid: string(pod.UID), name: pod.Name, gone: gone, ending: pod.DeletionTimestamp != nil,
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
	return replay(w.events, w.workload.Expected()), w.err
}

// replay finds the worst moment. The pods that stood when the witness began
// are its first events, so counting starts once as many are available as
// there should be.
func replay(events []sighting, expected int) Testimony {
	t := Testimony{Expected: expected}
	available := map[string]bool{}
	begun := false
	for _, e := range events {
		if available[e.uid] && !e.available {
			t.Deletions++
		}
		delete(available, e.uid)
		if e.available {
			available[e.uid] = true
		}
		begun = begun || len(available) >= expected
		if missing := expected - len(available); begun && missing > t.WorstUnavailable {
			t.WorstUnavailable, t.WorstAt = missing, e.at
		}
	}
	return t
}
