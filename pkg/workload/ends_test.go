package workload

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

// What a watch has shown is a fact; what a list lacks may be younger than the list.
func TestSawEnd(t *testing.T) {
	p := NewPods(fake.NewClientset())
	store := podStore{p}
	pod := func(name string, terminating bool) *corev1.Pod {
		made := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("uid of " + name)}}
		if terminating {
			now := metav1.Now()
			made.DeletionTimestamp = &now
		}
		return made
	}
	var all []any
	for _, name := range []string{"stays", "goes", "is deleted", "is missing in a list"} {
		all = append(all, pod(name, false))
	}
	steps := []error{
		store.Replace(all, "1"), store.Update(pod("goes", true)), store.Delete(pod("goes", true)),
		store.Delete(pod("is deleted", false)), store.Replace(all[:1], "2"),
	}
	for i, err := range steps {
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	for name, want := range map[string]bool{"stays": false, "goes": true, "is deleted": true, "is missing in a list": false, "never was": false} {
		if got := p.SawEnd("uid of " + name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}

func TestEndsAreForgottenInTheirOrder(t *testing.T) {
	p := NewPods(fake.NewClientset())
	for i := range endsRemembered + 3 {
		for range 2 {
			if err := (podStore{p}).Delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i))}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, want := range map[int]bool{0: false, 2: false, 3: true, endsRemembered + 2: true} {
		if p.SawEnd(fmt.Sprint(i)) != want {
			t.Errorf("pod %d is remembered: %t", i, !want)
		}
	}
	if got := p.ended.Len(); got != endsRemembered {
		t.Errorf("%d are remembered", got)
	}
}
