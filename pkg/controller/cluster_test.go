package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// endpoints is a slice of Service n/mesh: "10.0.0.1 pod" is a ready endpoint,
// "10.0.0.1 pod !" one that is neither ready nor serving and going.
func endpoints(name string, kind discoveryv1.AddressType, texts ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: named("n", name), AddressType: kind}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: "mesh"}
	for _, text := range texts {
		var address, pod, going string
		fmt.Sscan(text, &address, &pod, &going)
		yes, no := true, false
		e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}}
		if pod != "" {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: pod}
		}
		if going != "" {
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// R2: each pod has an independent etcd that some peer may be reading.
func TestInstanceAddresses(t *testing.T) {
	foreign := endpoints("foreign", discoveryv1.AddressTypeIPv4, "10.9.9.9 x")
	foreign.Labels[discoveryv1.LabelServiceName] = "other"
	elsewhere := endpoints("elsewhere", discoveryv1.AddressTypeIPv4, "10.8.8.8 x")
	elsewhere.Namespace = "m"
	none := endpoints("none", discoveryv1.AddressTypeIPv4)
	none.Endpoints = []discoveryv1.Endpoint{{}}
	for name, c := range map[string]struct {
		slices []client.Object
		want   string
	}{
		"none":                  {nil, "[]"},
		"sorted":                {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv4, "10.0.0.2 p2", "10.0.0.1 p1")}, "[10.0.0.1:2379 10.0.0.2:2379]"},
		"not ready, going":      {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv4, "10.0.0.1 p1", "10.0.0.2 p2 !")}, "[10.0.0.1:2379 10.0.0.2:2379]"},
		"several slices":        {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv4, "10.0.0.1 p1"), endpoints("b", discoveryv1.AddressTypeIPv4, "10.0.0.2 p2")}, "[10.0.0.1:2379 10.0.0.2:2379]"},
		"dual stack":            {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv6, "fd00::1 p1", "fd00::2 p2"), endpoints("b", discoveryv1.AddressTypeIPv4, "10.0.0.1 p1")}, "[10.0.0.1:2379 [fd00::2]:2379]"},
		"in two slices at once": {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv4, "10.0.0.1 p1"), endpoints("b", discoveryv1.AddressTypeIPv4, "10.0.0.1 p1")}, "[10.0.0.1:2379]"},
		"without a pod":         {[]client.Object{endpoints("a", discoveryv1.AddressTypeIPv4, "10.0.0.1", "10.0.0.2")}, "[10.0.0.1:2379 10.0.0.2:2379]"},
		"without an address":    {[]client.Object{none}, "[]"},
		"of other services":     {[]client.Object{foreign, elsewhere}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := InstanceAddresses(t.Context(), newHall(t, c.slices...), "n", "mesh", 2379)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "addresses", found, c.want)
		})
	}
	h := newHall(t)
	h.before["list"] = func() error { return errors.New("broken") }
	if _, err := InstanceAddresses(t.Context(), h, "n", "mesh", 2379); err == nil {
		t.Error("slices that could not be listed were taken for none")
	}
}

func newCluster(h *hall) *Cluster {
	r := h.budgets()
	return &Cluster{Budgets: r, Workload: r.Workload, Namespace: "n", Service: "db"}
}

func TestPartsOfTheOwnCluster(t *testing.T) {
	going := remembering(newBudget("n", "going"), "c1")
	now := metav1.Now()
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
	lost := remembering(newBudget("m", "lost"), "c1", "c2")
	h := newHall(t, newBudget("n", "new"), remembering(newBudget("n", "b"), "c1", "c2"), lost, going, globalService("n", "db"), readyPod("n", "p0"))
	parts, err := newCluster(h).Parts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range parts {
		got = append(got, fmt.Sprintf("%s/%s %v %d", p.Namespace, p.Name, p.Budget.View, len(p.Pods)))
	}
	expect(t, "parts", got, "[m/lost [c1 c2] 0 n/b [c1 c2] 1]")
	h.before["list"] = func() error { return errors.New("broken") }
	if _, err := newCluster(h).Parts(t.Context()); err == nil {
		t.Error("budgets that could not be listed were taken for none")
	}
}

func TestLivePodsAndEnds(t *testing.T) {
	now := metav1.Now()
	going := readyPod("n", "going")
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
	uncovered := readyPod("n", "uncovered")
	uncovered.Labels = nil
	h := newHall(t, globalService("n", "db"), readyPod("n", "p0"), going, uncovered, readyPod("m", "p1"))
	h.sawEnd = map[string]bool{"n/went": true, "its predecessor that went": true}
	c := newCluster(h)
	if _, err := c.LivePods(t.Context()); err == nil {
		t.Error("no budget is known yet, and that was taken for none")
	}
	for _, row := range []struct {
		pod, uid string
		want     bool
		seems    publish.Sight
	}{
		{"p0", "n/p0", false, publish.Alive}, {"p0", "its predecessor", true, publish.Missing},
		{"going", "n/going", true, publish.Ended}, {"gone", "n/gone", true, publish.Missing},
		{"went", "n/went", true, publish.Ended}, {"p0", "its predecessor that went", true, publish.Ended},
	} {
		ended, err := c.Ended(t.Context(), "n", row.pod, row.uid)
		if seems := c.SeemsEnded(t.Context(), "n", row.pod, row.uid); err != nil || ended != row.want || seems != row.seems {
			t.Errorf("%s %s: %t %d %v", row.pod, row.uid, ended, seems, err)
		}
	}
	h.before["getv1.Pod"] = func() error { return errors.New("broken") }
	if c.SeemsEnded(t.Context(), "n", "gone", "n/gone") != publish.Alive {
		t.Error("a pod that could not be read seems to have ended")
	}
}

// H07: what cannot be said is not gone.
func TestInstanceGone(t *testing.T) {
	failed := readyPod("n", "failed")
	failed.Status.Phase, failed.Status.PodIPs = corev1.PodFailed, []corev1.PodIP{{IP: "10.0.0.3"}}
	going := readyPod("n", "going")
	now := metav1.Now()
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
	going.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.2"}}
	dual := readyPod("n", "dual")
	dual.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	h := newHall(t, globalService("n", "db"), dual, going, failed)
	c := newCluster(h)
	for instance, want := range map[string]bool{
		"10.0.0.1:2379": false, "[fd00::1]:2379": false, "10.0.0.2:2379": false, "10.0.0.3:2379": true, "10.0.0.9:2379": true,
	} {
		if gone, err := c.InstanceGone(t.Context(), instance, time.Hour); err != nil || gone != want {
			t.Errorf("%s: %t %v", instance, gone, err)
		}
	}
	if gone, err := c.InstanceGone(t.Context(), "no address", time.Hour); err == nil || gone {
		t.Error("an address that cannot be read is gone")
	}
	h.before["list"] = func() error { return errors.New("broken") }
	if gone, err := c.InstanceGone(t.Context(), "10.0.0.9:2379", time.Hour); err == nil || gone {
		t.Error("gone although pods could not be listed")
	}
	if gone, err := newCluster(newHall(t)).InstanceGone(t.Context(), "10.0.0.9:2379", time.Hour); err == nil || gone {
		t.Error("gone although the service could not be read")
	}
	byFile := &Cluster{Workload: &workload.Workload{}, ConfiguredByFile: true}
	for missing, want := range map[time.Duration]bool{0: false, mesh.MarkerTTL * time.Second: false, 3 * mesh.MarkerTTL * time.Second: true} {
		if gone, err := byFile.InstanceGone(t.Context(), "anything", missing); err != nil || gone != want {
			t.Errorf("no longer in the file for %v: %t %v", missing, gone, err)
		}
	}
}

// Kicks come together and never block who kicks.
func TestKicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKicks()
		for range 100 {
			k.Kick("n")
		}
		k.Kick("")
		k.Kick("n/b")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		got := map[string]int{}
		for range 3 {
			marker := (<-k.events).Object
			got[marker.GetNamespace()+" "+marker.GetName()]++
		}
		expect(t, "kicks", got, map[string]int{" ": 1, "n ": 1, "n b": 1})
		k.Kick("m")
		synctest.Wait()
		// Nobody takes it; Run ends all the same.
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
