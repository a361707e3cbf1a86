package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// unlisted are pods before their first list.
func unlisted() *Pods { return NewPods(fake.NewClientset()) }

// listedPods are the pods among the objects.
func listedPods(t testing.TB, objects ...client.Object) *Pods {
	t.Helper()
	p := unlisted()
	var pods []any
	for _, o := range objects {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	if err := (podStore{p}).Replace(pods, "1"); err != nil {
		t.Fatal(err)
	}
	return p
}

// fullPod has everything that decisions read, and much that they do not.
func fullPod() *corev1.Pod {
	controls, deleted := true, metav1.NewTime(time.Unix(1_700_000_000, 0))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "n", Name: "db-0", UID: "u", ResourceVersion: "7", DeletionTimestamp: &deleted,
			Labels:          map[string]string{"app": "db", "empty": "", "statefulset.kubernetes.io/pod-name": "db-0"},
			Annotations:     map[string]string{corev1.MirrorPodAnnotationKey: "hash", "large": strings.Repeat("x", 1000)},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ConfigMap", Name: "other"}, {APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "s", Controller: &controls}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "db"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	return pod
}

// What a record gives back says what the pod says, to everything that asks.
func TestRecordKeepsWhatDecisionsRead(t *testing.T) {
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "bare", UID: "b"}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	failed := fullPod()
	failed.Status.Phase, failed.DeletionTimestamp, failed.Annotations = corev1.PodFailed, nil, nil
	unready := fullPod()
	unready.Status.Conditions[1].Status, unready.DeletionTimestamp = corev1.ConditionFalse, nil
	for _, pod := range []*corev1.Pod{fullPod(), bare, failed, unready} {
		got := compact(pod).pod()
		if got.Namespace != pod.Namespace || got.Name != pod.Name || got.UID != pod.UID || got.ResourceVersion != pod.ResourceVersion || got.Spec.NodeName != pod.Spec.NodeName {
			t.Errorf("got %+v", got)
		}
		if !maps.Equal(got.Labels, pod.Labels) || got.Status.Phase != pod.Status.Phase || !got.DeletionTimestamp.Equal(pod.DeletionTimestamp) {
			t.Errorf("got %+v", got)
		}
		if fmt.Sprint(Record(got)) != fmt.Sprint(Record(pod)) || IsMirror(got) != IsMirror(pod) || IsReady(got) != IsReady(pod) || IsTerminal(got) != IsTerminal(pod) {
			t.Errorf("got %+v, want %+v", Record(got), Record(pod))
		}
		if a, b := metav1.GetControllerOf(got), metav1.GetControllerOf(pod); (a == nil) != (b == nil) || a != nil && (a.Name != b.Name || a.Kind != b.Kind || a.UID != b.UID || a.APIVersion != b.APIVersion) {
			t.Errorf("owner %+v, want %+v", a, b)
		}
		if len(got.Annotations["large"])+len(got.Spec.Containers)+len(got.ManagedFields) > 0 {
			t.Errorf("%s keeps what nobody reads", pod.Name)
		}
	}
	heartbeat := fullPod()
	heartbeat.ResourceVersion, heartbeat.Status.StartTime = "8", &metav1.Time{}
	if !compact(fullPod()).same(compact(heartbeat)) || compact(fullPod()).same(compact(unready)) {
		t.Error("a change that matters is not told from one that does not")
	}
}

// Pods by the index are those that a scan of all finds, whatever comes and goes.
func TestSelectFindsWhatAScanFinds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p := listedPods(t)
	store := podStore{p}
	all := map[string]*corev1.Pod{}
	keys, values := []string{"a", "b", "c"}, []string{"", "1", "2"}
	some := func() map[string]string {
		chosen := map[string]string{}
		for _, key := range keys {
			if random.IntN(2) == 0 {
				chosen[key] = values[random.IntN(len(values))]
			}
		}
		return chosen
	}
	for step := range 5000 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", random.IntN(2)), Name: fmt.Sprint("p", random.IntN(20)), Labels: some()}}
		key := pod.Namespace + "/" + pod.Name
		var err error
		switch random.IntN(40) {
		case 0:
			// A relist that finds half of them.
			maps.DeleteFunc(all, func(string, *corev1.Pod) bool { return random.IntN(2) == 0 })
			var left []any
			for _, pod := range all {
				left = append(left, pod)
			}
			err = store.Replace(left, "2")
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10:
			err = store.Delete(pod)
			delete(all, key)
		default:
			err = store.Update(pod)
			all[key] = pod
		}
		if err != nil {
			t.Fatal(err)
		}
		namespace, selector := fmt.Sprint("n", random.IntN(2)), some()
		var want []string
		for _, pod := range all {
			if pod.Namespace == namespace && len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels)) {
				want = append(want, pod.Name)
			}
		}
		slices.Sort(want)
		found, err := p.Select(t.Context(), namespace, selector)
		var got []string
		for _, pod := range found {
			got = append(got, pod.Name)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("step %d: %v selects %v in %s, want %v (%v)", step, selector, got, namespace, want, err)
		}
	}
}

// told notes what listeners hear.
type told struct {
	mu   sync.Mutex
	said []string
}

func (h *told) hear(namespace string, labels map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, namespace+"/"+labels["pod"]+" "+labels["app"])
}

func (h *told) taken() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.said
	h.said = nil
	slices.Sort(said)
	return said
}

func TestListenersHearWhatMatters(t *testing.T) {
	var h told
	p := unlisted()
	p.OnChange(h.hear)
	s := podStore{p}
	at := func(pod *corev1.Pod, version, uid string) *corev1.Pod {
		pod.ResourceVersion, pod.UID = version, types.UID(uid)
		return pod
	}
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"the first list", func() error {
			return s.Replace([]any{at(labelled("a", "db"), "1", "a"), at(labelled("b", "db"), "1", "b")}, "1")
		}, nil},
		{"a pod comes", func() error { return s.Add(at(labelled("c", "db"), "2", "c")) }, []string{"n/c db"}},
		{"nothing that matters", func() error { return s.Update(at(labelled("c", "db"), "3", "c")) }, nil},
		{"another of its name", func() error { return s.Update(at(labelled("c", "db"), "4", "c2")) }, []string{"n/c db"}},
		{"other labels", func() error { return s.Update(at(labelled("c", "web"), "5", "c2")) }, []string{"n/c db", "n/c web"}},
		{"it goes", func() error { return s.Delete(at(labelled("c", "web"), "6", "c2")) }, []string{"n/c web"}},
		{"it is gone already", func() error { return s.Delete(at(labelled("c", "web"), "6", "c2")) }, nil},
		{"a list after a gap", func() error {
			return s.Replace([]any{at(labelled("a", "db"), "1", "a"), at(labelled("d", "db"), "7", "d")}, "7")
		}, []string{"n/b db", "n/d db"}},
		{"resync", s.Resync, nil},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := h.taken(); !slices.Equal(got, step.want) {
			t.Errorf("%s: heard %q, want %q", step.name, got, step.want)
		}
	}
	if err := s.Add(&corev1.Service{}); err == nil {
		t.Error("a Service was taken for a pod")
	}
}

// Where the API server does not stream a list, it comes page by page.
func TestListComesInPages(t *testing.T) {
	var asked []string
	list := func(_ context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
		asked = append(asked, fmt.Sprintf("%q %d %s", o.ResourceVersion, o.Limit, o.Continue))
		page := &corev1.PodList{Items: []corev1.Pod{*labelled("p"+o.Continue, "db")}}
		page.ResourceVersion = "9"
		if o.Continue == "" {
			page.Continue = "1"
		}
		return page, nil
	}
	o, err := listCompact(t.Context(), metav1.ListOptions{ResourceVersion: "0", Limit: 500}, list)
	if err != nil {
		t.Fatal(err)
	}
	all := o.(*recordList)
	if len(all.Items) != 2 || all.Items[1].name != "p1" || all.ResourceVersion != "9" || all.Continue != "" {
		t.Errorf("got %+v", all)
	}
	if want := []string{`"" 1000 `, `"" 1000 1`}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	failing := func(context.Context, metav1.ListOptions) (*corev1.PodList, error) { return nil, errors.New("broken") }
	if _, err := listCompact(t.Context(), metav1.ListOptions{}, failing); err == nil {
		t.Error("a page that could not be read was taken for the last")
	}
}

// A Reflector fills it from a list and a watch, and again after an error.
func TestRunFollowsTheAPIServer(t *testing.T) {
	api := fake.NewClientset(labelled("a", "db"), labelled("b", "web"))
	var lists int
	api.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		if lists++; lists == 1 {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	p := NewPods(api)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := p.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		pods, err := p.Select(ctx, "n", map[string]string{"app": "db"})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, pod := range pods {
			all = append(all, pod.Name)
		}
		return strings.Join(all, " ")
	}
	if got := names(); got != "a" {
		t.Errorf("listed %s", got)
	}
	heard := make(chan string, 10)
	p.OnChange(func(_ string, labels map[string]string) { heard <- labels["pod"] })
	// The fake tells a watch nothing of what came before it.
	for !slices.ContainsFunc(api.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "watch" }) {
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	pods := api.CoreV1().Pods("n")
	_, err := pods.Create(ctx, labelled("c", "db"), metav1.CreateOptions{})
	if err = errors.Join(err, pods.Delete(ctx, "a", metav1.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c", "a"} {
		select {
		case got := <-heard:
			if got != want {
				t.Errorf("heard of %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("heard nothing of %s", want)
		}
	}
	if got := names(); got != "c" {
		t.Errorf("after the watch: %s", got)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := unlisted().WaitForSync(stopped); err == nil {
		t.Error("what was never listed is in step")
	}
}

func BenchmarkCompact(b *testing.B) {
	pod := fullPod()
	b.ReportAllocs()
	for b.Loop() {
		compact(pod)
	}
}

func BenchmarkSelect(b *testing.B) {
	p := listedPods(b)
	for i := range 100_000 {
		pod := labelled(fmt.Sprint("p", i), fmt.Sprint("app-", i/10))
		if err := (podStore{p}).Update(pod); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if pods, err := p.Select(b.Context(), "n", map[string]string{"app": fmt.Sprint("app-", i%10_000)}); err != nil || len(pods) != 10 {
			b.Fatal(len(pods), err)
		}
	}
}
