package controller

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// told returns the entries of the ConfigMap.
func (h *hall) told(t *testing.T) []roster.Replica {
	t.Helper()
	var object corev1.ConfigMap
	if err := h.Get(t.Context(), types.NamespacedName{Namespace: "kube-system", Name: roster.ConfigMap}, &object); err != nil {
		t.Fatal(err)
	}
	all, err := roster.Read(object.Data)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRosterTellsChangesAtOnceAndTheRestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "other"}})
		// synctest.Wait tells the race detector of what has been done by then, and of nothing that is done after it.
		var mu sync.Mutex
		edit := func(change func()) {
			mu.Lock()
			defer mu.Unlock()
			change()
		}
		taken := func() (calls []string) {
			edit(func() { calls = h.taken() })
			return calls
		}
		tellings := 0
		message := ""
		r := &Roster{Client: h, Namespace: "kube-system", Log: logr.Discard(), Tell: func(now time.Time) roster.Replica {
			mu.Lock()
			defer mu.Unlock()
			tellings++
			// The round trip of every look differs.
			return roster.Replica{Name: "a", Written: now, Peers: []roster.Store{{Name: "c2", Message: message, RoundTrip: float64(tellings)}}}
		}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if calls := strings.Join(taken(), ", "); calls != "create "+roster.ConfigMap {
			t.Fatalf("at first: %s", calls)
		}
		time.Sleep(roster.Interval - time.Second)
		synctest.Wait()
		if calls := taken(); len(calls) != 0 {
			t.Fatalf("without a change: %v", calls)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if calls := taken(); len(calls) != 1 || h.told(t)[0].Age(time.Now()) != 0 {
			t.Fatalf("after the interval: %v", calls)
		}
		edit(func() { message = "its kvstore is unreachable" })
		time.Sleep(rosterLook)
		synctest.Wait()
		if calls := taken(); len(calls) != 1 || h.told(t)[0].Peers[0].Message != message {
			t.Fatalf("after a change: %v, %+v", calls, h.told(t))
		}

		// Another replica writes between; then the API server fails once.
		conflicts := 1
		edit(func() {
			h.before["update"] = func() error {
				if conflicts--; conflicts >= 0 {
					return apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, roster.ConfigMap, errors.New("it was changed"))
				}
				return nil
			}
		})
		time.Sleep(roster.Interval + time.Second)
		synctest.Wait()
		if calls := taken(); len(calls) != 2 {
			t.Fatalf("at a conflict: %v", calls)
		}
		edit(func() { h.before["update"] = func() error { return errors.New("no API server") } })
		time.Sleep(roster.Interval)
		synctest.Wait()
		taken()
		edit(func() { delete(h.before, "update") })
		time.Sleep(rosterLook)
		synctest.Wait()
		if calls := taken(); len(calls) != 1 {
			t.Fatalf("after a failure: %v", calls)
		}

		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if all := h.told(t); len(all) != 0 {
			t.Errorf("it has ended, and %+v still stands", all)
		}
	})
}

func TestRosterLeavesWhatOthersTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, err := roster.Put(nil, roster.Replica{Name: "b", Written: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		h := newHall(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: roster.ConfigMap}, Data: data})
		r := &Roster{Client: h, Namespace: "kube-system", Log: logr.Discard(), Tell: func(now time.Time) roster.Replica {
			return roster.Replica{Name: "a", Written: now}
		}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if all := h.told(t); len(all) != 2 {
			t.Fatalf("told are %+v", all)
		}
		stop()
		<-done
		if all := h.told(t); len(all) != 1 || all[0].Name != "b" {
			t.Errorf("left are %+v", all)
		}
	})
}

// TestSinceWhenAClusterIsShort: people ask since when a cluster holds a budget back.
func TestSinceWhenAClusterIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := func(available, expected int, unread string) budget.Cluster {
			c := budget.Cluster{Name: "c2", Expected: expected, Unread: unread}
			for range available {
				c.Pods = append(c.Pods, budget.Pod{Available: true})
			}
			return c
		}
		row := clusterStatus(of(3, 3, ""), nil)
		if row.ShortSince != nil {
			t.Fatalf("complete: %v", row.ShortSince)
		}
		step := func(c budget.Cluster) v1alpha1.ClusterStatus {
			row = clusterStatus(c, []v1alpha1.ClusterStatus{row})
			return row
		}
		start := time.Now()
		if step(of(2, 3, "")).ShortSince == nil || !row.ShortSince.Time.Equal(start) {
			t.Fatalf("one is missing: %v", row.ShortSince)
		}
		time.Sleep(time.Minute)
		for _, c := range []budget.Cluster{of(1, 3, ""), of(0, 3, "no connection"), of(2, 3, "")} {
			if step(c).ShortSince == nil || !row.ShortSince.Time.Equal(start) {
				t.Errorf("%+v: %v", c, row.ShortSince)
			}
		}
		if step(of(4, 3, "")).ShortSince != nil {
			t.Errorf("complete again: %v", row.ShortSince)
		}
	})
}
