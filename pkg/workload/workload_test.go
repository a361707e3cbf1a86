package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return scheme
}

// newWorkload has the same objects in memory and in the API server.
func newWorkload(t *testing.T, objects ...client.Object) *Workload {
	t.Helper()
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(objects...).Build()
	return &Workload{Cached: c, Live: c, Running: listedPods(t, objects...), Coverage: listedCoverage(objects...)}
}

// broken is a reader that fails.
func broken(t *testing.T) client.Client {
	return interceptor.NewClient(fake.NewClientBuilder().WithScheme(newScheme(t)).Build(), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("connection refused")
		},
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("connection refused")
		},
	})
}

func named(name string, uid types.UID) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "n", Name: name, UID: uid}
}

// ownedBy adds a controller.
func ownedBy(m metav1.ObjectMeta, apiVersion, kind, name string, uid types.UID) metav1.ObjectMeta {
	yes := true
	m.OwnerReferences = []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: "no controller"},
		{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: &yes},
	}
	return m
}

func podOf(name, apiVersion, kind, owner string) corev1.Pod {
	return corev1.Pod{ObjectMeta: ownedBy(named(name, types.UID(name)), apiVersion, kind, owner, types.UID(owner))}
}

func count(n int32) *int32 { return &n }

func deployment(name string, replicas *int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: named(name, types.UID(name)), Spec: appsv1.DeploymentSpec{Replicas: replicas}}
}

func replicaSet(name, of string, replicas *int32) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: named(name, types.UID(name)), Spec: appsv1.ReplicaSetSpec{Replicas: replicas}}
	if of != "" {
		rs.ObjectMeta = ownedBy(rs.ObjectMeta, "apps/v1", "Deployment", of, types.UID(of))
	}
	return rs
}

// spelled writes owners as "Deployment/a=3", vanished ones with a "!".
func spelled(owners []v1alpha1.OwnerStatus) string {
	var words []string
	for _, o := range owners {
		word := fmt.Sprintf("%s/%s=%d", o.Kind, o.Name, o.ExpectedPods)
		if o.Vanished {
			word += "!"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// known reads what spelled writes.
func known(text string) []v1alpha1.OwnerStatus {
	versions := map[string]string{"Pod": "v1", "ReplicationController": "v1", "Rollout": "argoproj.io/v1alpha1"}
	var all []v1alpha1.OwnerStatus
	for _, word := range strings.Fields(text) {
		o := v1alpha1.OwnerStatus{APIVersion: "apps/v1", Vanished: strings.HasSuffix(word, "!")}
		word = strings.NewReplacer("/", " ", "=", " ", "!", "").Replace(word)
		if _, err := fmt.Sscanf(word, "%s %s %d", &o.Kind, &o.Name, &o.ExpectedPods); err != nil {
			panic(err)
		}
		if v, ok := versions[o.Kind]; ok {
			o.APIVersion = v
		}
		all = append(all, o)
	}
	return all
}

func TestOwners(t *testing.T) {
	for name, c := range map[string]struct {
		objects []client.Object
		pods    []corev1.Pod
		known   string
		want    string
	}{
		"deployment behind its replica sets": {
			objects: []client.Object{deployment("web", count(5)), replicaSet("web-1", "web", count(4)), replicaSet("web-2", "web", count(2))},
			pods:    []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "web-1"), podOf("b", "apps/v1", "ReplicaSet", "web-2")},
			want:    "Deployment/web=5",
		},
		"replica set alone":      {objects: []client.Object{replicaSet("rs", "", count(2))}, pods: []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "rs")}, want: "ReplicaSet/rs=2"},
		"replicas not said":      {objects: []client.Object{replicaSet("rs", "", nil)}, pods: []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "rs")}, want: "ReplicaSet/rs=1"},
		"stateful set":           {objects: []client.Object{&appsv1.StatefulSet{ObjectMeta: named("db", "db"), Spec: appsv1.StatefulSetSpec{Replicas: count(3)}}}, pods: []corev1.Pod{podOf("db-0", "apps/v1", "StatefulSet", "db")}, want: "StatefulSet/db=3"},
		"daemon set":             {objects: []client.Object{&appsv1.DaemonSet{ObjectMeta: named("ds", "ds"), Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 7, CurrentNumberScheduled: 6}}}, pods: []corev1.Pod{podOf("a", "apps/v1", "DaemonSet", "ds")}, want: "DaemonSet/ds=7"},
		"replication controller": {objects: []client.Object{&corev1.ReplicationController{ObjectMeta: named("rc", "rc"), Spec: corev1.ReplicationControllerSpec{Replicas: count(2)}}}, pods: []corev1.Pod{podOf("a", "v1", "ReplicationController", "rc")}, want: "ReplicationController/rc=2"},
		"bare pods ask for themselves, ended ones do not": {
			pods: []corev1.Pod{{ObjectMeta: named("a", "a")}, {ObjectMeta: named("b", "b")}, {ObjectMeta: named("c", "c"), Status: corev1.PodStatus{Phase: corev1.PodFailed}}, {ObjectMeta: named("d", "d"), Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}},
			want: "Pod/a=1 Pod/b=1",
		},
		"a bare pod that went is forgotten": {known: "Pod/a=1", want: ""},
		"several": {
			objects: []client.Object{deployment("web", count(5)), replicaSet("web-1", "web", count(5)), replicaSet("rs", "", count(2))},
			pods:    []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "web-1"), podOf("b", "apps/v1", "ReplicaSet", "rs"), {ObjectMeta: named("c", "c")}},
			want:    "Deployment/web=5 Pod/c=1 ReplicaSet/rs=2",
		},
		"scaled to zero is believed":      {objects: []client.Object{deployment("web", count(0))}, known: "Deployment/web=5", want: "Deployment/web=0"},
		"scaled up, pods yet to come":     {objects: []client.Object{deployment("web", count(4))}, known: "Deployment/web=0", want: "Deployment/web=4"},
		"vanished keeps its count":        {known: "Deployment/web=5", want: "Deployment/web=5!"},
		"and goes on to":                  {known: "Deployment/web=5!", want: "Deployment/web=5!"},
		"vanished with pods left":         {objects: []client.Object{replicaSet("web-1", "web", count(5))}, pods: []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "web-1")}, known: "Deployment/web=5", want: "Deployment/web=5!"},
		"until another appears":           {objects: []client.Object{&appsv1.StatefulSet{ObjectMeta: named("db", "db"), Spec: appsv1.StatefulSetSpec{Replicas: count(3)}}}, pods: []corev1.Pod{podOf("db-0", "apps/v1", "StatefulSet", "db")}, known: "Deployment/web=5", want: "StatefulSet/db=3"},
		"not for one that was there":      {objects: []client.Object{&appsv1.StatefulSet{ObjectMeta: named("db", "db"), Spec: appsv1.StatefulSetSpec{Replicas: count(3)}}}, pods: []corev1.Pod{podOf("db-0", "apps/v1", "StatefulSet", "db")}, known: "Deployment/web=5 StatefulSet/db=3", want: "Deployment/web=5! StatefulSet/db=3"},
		"or until it is back":             {objects: []client.Object{deployment("web", count(6))}, known: "Deployment/web=5!", want: "Deployment/web=6"},
		"back for others as well":         {objects: []client.Object{deployment("a", count(3)), replicaSet("a-1", "a", count(3))}, pods: []corev1.Pod{podOf("p", "apps/v1", "ReplicaSet", "a-1")}, known: "Deployment/a=2! Deployment/b=5!", want: "Deployment/a=3"},
		"back, its pods yet to come":      {objects: []client.Object{deployment("a", count(3))}, known: "Deployment/a=2! Deployment/b=5!", want: "Deployment/a=3"},
		"a successor of the same name":    {objects: []client.Object{&appsv1.StatefulSet{ObjectMeta: named("db", "db2"), Spec: appsv1.StatefulSetSpec{Replicas: count(3)}}}, pods: []corev1.Pod{podOf("db-0", "apps/v1", "StatefulSet", "db")}, want: ""},
		"a pod whose owner was never met": {pods: []corev1.Pod{podOf("a", "apps/v1", "ReplicaSet", "gone")}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkload(t, c.objects...)
			owners, err := w.Owners(t.Context(), "n", c.pods, known(c.known))
			if err != nil {
				t.Fatal(err)
			}
			if got := spelled(owners); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if n := Expected(known("Deployment/web=5! StatefulSet/db=3")); n != 8 {
		t.Errorf("8 pods are expected, not %d", n)
	}
}

// Kinds that meshpdb does not know are asked through their scale.
func TestOwnersByScale(t *testing.T) {
	rollout := []corev1.Pod{podOf("a", "argoproj.io/v1alpha1", "Rollout", "web")}
	for name, c := range map[string]struct {
		scale   error
		pods    []corev1.Pod
		known   string
		want    string
		problem bool
		failure bool
	}{
		"tells":                   {pods: rollout, want: "Rollout/web=4"},
		"without a scale":         {pods: rollout, scale: apierrors.NewNotFound(schema.GroupResource{Resource: "rollouts"}, "web"), problem: true},
		"may not be read":         {pods: rollout, scale: apierrors.NewForbidden(schema.GroupResource{Resource: "rollouts"}, "web", nil), problem: true},
		"of no kind":              {pods: rollout, scale: &meta.NoKindMatchError{}, problem: true},
		"API server down":         {pods: rollout, scale: errors.New("connection refused"), failure: true},
		"was there once":          {known: "Rollout/web=3", scale: apierrors.NewNotFound(schema.GroupResource{Resource: "rollouts"}, "web"), want: "Rollout/web=3!"},
		"was there, server down":  {known: "Rollout/web=3", scale: errors.New("connection refused"), failure: true},
		"is there without a pod":  {known: "Rollout/web=3", want: "Rollout/web=4"},
		"a job tells none either": {pods: []corev1.Pod{podOf("a", "batch/v1", "Job", "once")}, scale: apierrors.NewNotFound(schema.GroupResource{Resource: "jobs"}, "once"), problem: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkload(t)
			w.Live = interceptor.NewClient(w.Live.(client.WithWatch), interceptor.Funcs{
				SubResourceGet: func(_ context.Context, _ client.Client, resource string, o, into client.Object, _ ...client.SubResourceGetOption) error {
					if resource != "scale" || o.GetNamespace() != "n" {
						t.Errorf("asked for %s of %s", resource, client.ObjectKeyFromObject(o))
					}
					if c.scale == nil {
						// A real client refuses a typed scale of an owner that is not.
						into.(*unstructured.Unstructured).Object = map[string]any{"spec": map[string]any{"replicas": int64(4)}, "status": map[string]any{"replicas": int64(9)}}
					}
					return c.scale
				},
			})
			owners, err := w.Owners(t.Context(), "n", c.pods, known(c.known))
			var problem *Problem
			if errors.As(err, &problem) != c.problem || (err != nil) != (c.problem || c.failure) {
				t.Fatalf("got error %v", err)
			}
			if c.problem && (problem.Reason != v1alpha1.ReasonOwnerUnknown || !strings.Contains(problem.Message, "tells no scale")) {
				t.Errorf("got %+v", problem)
			}
			if got := spelled(owners); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("nobody to ask", func(t *testing.T) {
		w := newWorkload(t)
		w.Live = struct{ client.Reader }{w.Live}
		if _, err := w.Owners(t.Context(), "n", rollout, nil); !errors.As(err, new(*Problem)) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("informers down", func(t *testing.T) {
		w := &Workload{Cached: broken(t), Live: broken(t)}
		_, err := w.Owners(t.Context(), "n", []corev1.Pod{podOf("a", "apps/v1", "StatefulSet", "db")}, nil)
		if err == nil || errors.As(err, new(*Problem)) {
			t.Errorf("got %v: that one cannot read is not that there is none", err)
		}
		if _, err := w.Owners(t.Context(), "n", nil, known("StatefulSet/db=3")); err == nil {
			t.Error("an owner that could not be read was taken for gone")
		}
	})
}

func service(name string, selector ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: named(name, types.UID(name))}
	if len(selector) > 0 {
		s.Spec.Selector = map[string]string{}
		for _, app := range selector {
			s.Spec.Selector["app"] = app
		}
	}
	return s
}

func budgetOf(name, service string) *v1alpha1.MeshPodDisruptionBudget {
	one := intstr.FromInt32(1)
	return &v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: named(name, types.UID(name)),
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: service, MaxUnavailable: &one},
	}
}

func labelled(name, app string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(name, types.UID(name))}
	p.Labels = map[string]string{"app": app, "pod": name}
	return p
}

func TestBudgetsOf(t *testing.T) {
	elsewhere, servedElsewhere := budgetOf("elsewhere", "db"), service("db", "db")
	elsewhere.Namespace, servedElsewhere.Namespace = "m", "m"
	w := newWorkload(t, service("db", "db"), service("all"), service("web", "web"),
		budgetOf("z", "db"), budgetOf("a", "db"), budgetOf("web", "web"), budgetOf("all", "all"), budgetOf("lost", "lost"), elsewhere, servedElsewhere)
	for app, want := range map[string][]string{"db": {"a", "z"}, "web": {"web"}, "other": nil} {
		covering, err := w.BudgetsOf(t.Context(), labelled("p", app))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, b := range covering {
			got = append(got, b.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("pod of %s is covered by %v, want %v", app, got, want)
		}
	}
	if _, err := (&Workload{Coverage: NewCoverage()}).BudgetsOf(t.Context(), labelled("p", "db")); !errors.Is(err, errNotListed) {
		t.Errorf("budgets that were not listed yet were taken for none: %v", err)
	}
	half := listedCoverage(budgetOf("b", "db"), service("db", "db"))
	half.synced = append(half.synced, func() bool { return false })
	if _, err := (&Workload{Coverage: half}).BudgetsOf(t.Context(), labelled("p", "db")); !errors.Is(err, errNotListed) {
		t.Errorf("services that were not listed yet were taken for none: %v", err)
	}
}

func TestServiceProblems(t *testing.T) {
	w := newWorkload(t, service("db", "db"), service("headless"))
	for name, want := range map[string]string{"db": "", "headless": v1alpha1.ReasonServiceHasNoSelector, "lost": v1alpha1.ReasonServiceNotFound} {
		s, err := w.Service(t.Context(), budgetOf("b", name))
		var problem *Problem
		switch {
		case want == "" && (err != nil || s.Name != name):
			t.Errorf("service %s: %v %v", name, s, err)
		case want != "" && (!errors.As(err, &problem) || problem.Reason != want || !strings.Contains(problem.Message, "n/"+name)):
			t.Errorf("service %s: %v", name, err)
		}
	}
	if _, err := (&Workload{Cached: broken(t)}).Service(t.Context(), budgetOf("b", "db")); err == nil || errors.As(err, new(*Problem)) {
		t.Errorf("got %v: that one cannot read is not that there is none", err)
	}
}

func TestPodsOfAService(t *testing.T) {
	mirror := labelled("mirror", "db")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
	elsewhere := labelled("elsewhere", "db")
	elsewhere.Namespace = "m"
	w := newWorkload(t, labelled("db-0", "db"), labelled("db-1", "db"), labelled("web-0", "web"), mirror, elsewhere)
	w.Running = listedPods(t, labelled("db-0", "db"), labelled("web-0", "web"), mirror, elsewhere)
	for want, list := range map[string]func(context.Context, *corev1.Service) ([]corev1.Pod, error){"[db-0]": w.Pods, "[db-0 db-1]": w.LivePods} {
		pods, err := list(t.Context(), service("db", "db"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range pods {
			names = append(names, p.Name)
		}
		if fmt.Sprint(names) != want {
			t.Errorf("got %v, want %s", names, want)
		}
	}
	if _, err := (&Workload{Running: unlisted()}).Pods(t.Context(), service("db", "db")); !errors.Is(err, errNotListed) {
		t.Errorf("pods that were not listed yet were taken for none: %v", err)
	}
	if _, err := (&Workload{Live: broken(t)}).LivePods(t.Context(), service("db", "db")); err == nil {
		t.Error("pods that could not be listed were taken for none")
	}
	if !Selects(service("db", "db"), labelled("p", "db").Labels) || Selects(service("db", "db"), nil) || Selects(service("db"), labelled("p", "db").Labels) {
		t.Error("a Service selects by its selector, and nothing without one")
	}
}

func TestPodAndEnded(t *testing.T) {
	now := metav1.Now()
	going := labelled("going", "db")
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
	w := newWorkload(t, labelled("db-0", "db"), going)
	// The informer is behind; it must not be asked.
	w.Running = listedPods(t, labelled("gone", "db"))
	for _, c := range []struct {
		name, uid string
		want      bool
	}{{"db-0", "db-0", false}, {"db-0", "its predecessor", true}, {"going", "going", true}, {"gone", "gone", true}} {
		if ended, err := w.Ended(t.Context(), "n", c.name, c.uid); err != nil || ended != c.want {
			t.Errorf("%s %s: %t %v", c.name, c.uid, ended, err)
		}
	}
	if p, err := w.CachedPod(t.Context(), "n", "gone"); err != nil || p == nil {
		t.Errorf("the cached pod: %v %v", p, err)
	}
	if p, err := w.Pod(t.Context(), "n", "gone"); err != nil || p != nil {
		t.Errorf("a pod that is not there: %v %v", p, err)
	}
	if p, err := w.CachedPod(t.Context(), "n", "db-0"); err != nil || p != nil {
		t.Errorf("a pod that memory does not have: %v %v", p, err)
	}
	down := &Workload{Live: broken(t), Running: unlisted()}
	if p, err := down.CachedPod(t.Context(), "n", "db-0"); !errors.Is(err, errNotListed) || p != nil {
		t.Errorf("a pod that was not listed yet was taken for gone: %v", err)
	}
	if ended, err := down.Ended(t.Context(), "n", "db-0", "db-0"); err == nil || ended {
		t.Error("a pod that could not be read was taken for gone")
	}
}

func TestAvailability(t *testing.T) {
	ready := []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	now := metav1.Now()
	for name, c := range map[string]struct {
		pod  corev1.Pod
		want wire.Unavailability
	}{
		"ready":       {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}}, wire.Available},
		"not ready":   {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse}}}}, wire.NotReady},
		"unknown":     {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionUnknown}}}}, wire.NotReady},
		"pending":     {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, wire.NotReady},
		"terminating": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}}, wire.Terminating},
		// PodGC leaves Ready=True on the pods that it fails.
		"failed":    {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Conditions: ready}}, wire.Terminal},
		"succeeded": {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded, Conditions: ready}}, wire.Terminal},
	} {
		if got := Availability(&c.pod); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	dual := labelled("db-0", "db")
	dual.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}
	if got := fmt.Sprint(Record(dual)); got != "{db-0 db-0 [10.0.0.1 fd00::1] }" {
		t.Errorf("got %s", got)
	}
}

func TestGlobalAndExported(t *testing.T) {
	const global, shared, oldGlobal, oldShared = "service.cilium.io/global", "service.cilium.io/shared", "io.cilium/global-service", "io.cilium/shared-service"
	for _, c := range []struct {
		annotations      map[string]string
		global, exported bool
	}{
		{nil, false, false},
		{map[string]string{global: "true"}, true, true},
		{map[string]string{global: "True"}, true, true},
		{map[string]string{global: "false"}, false, false},
		{map[string]string{global: "yes"}, false, false},
		{map[string]string{global: "true", shared: "true"}, true, true},
		{map[string]string{global: "true", shared: "false"}, true, false},
		{map[string]string{global: "true", shared: "False"}, true, false},
		// Anything but "true" keeps Cilium from exporting.
		{map[string]string{global: "true", shared: "no"}, true, false},
		{map[string]string{global: "true", shared: ""}, true, false},
		{map[string]string{shared: "true"}, false, false},
		{map[string]string{oldGlobal: "true"}, true, true},
		{map[string]string{oldGlobal: "true", oldShared: "false"}, true, false},
		{map[string]string{oldGlobal: "true", global: "false"}, false, false},
	} {
		s := service("db")
		s.Annotations = c.annotations
		if IsGlobal(s) != c.global || IsExported(s) != c.exported {
			t.Errorf("%v: global %t, exported %t", c.annotations, IsGlobal(s), IsExported(s))
		}
	}
}

func TestBounds(t *testing.T) {
	two, half := intstr.FromInt32(2), intstr.FromString("50%")
	for want, spec := range map[string]v1alpha1.MeshPodDisruptionBudgetSpec{
		"[]": {}, "[minAvailable 2]": {MinAvailable: &two}, "[maxUnavailable 50%]": {MaxUnavailable: &half},
		"[minAvailable 50% maxUnavailable 2]": {MinAvailable: &half, MaxUnavailable: &two},
	} {
		if got := fmt.Sprint(Bounds(&spec)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestScopeAndCovering(t *testing.T) {
	b := budgetOf("b", "db")
	if s := Scope(b); len(s) != 0 {
		t.Errorf("nobody has looked at it yet: %v", s)
	}
	b.Status.Clusters = []v1alpha1.ClusterStatus{{Name: "c2", Bound: "maxUnavailable 1"}, {Name: "c1"}, {Name: "c3", Bound: "nonsense"}}
	if s := fmt.Sprint(Scope(b)); s != "[c1 c2 c3]" {
		t.Errorf("remembered: %s", s)
	}
	c := Covering(b)
	if got := fmt.Sprint(c.Name, c.Clusters, c.LastKnown); got != "n/b[c1 c2 c3] map[c2:[maxUnavailable 1]]" {
		t.Errorf("got %s", got)
	}
	b.Spec.Clusters = []string{"c9", "c1"}
	if s := fmt.Sprint(Scope(b)); s != "[c1 c9]" {
		t.Errorf("named: %s", s)
	}
	if b.Spec.Clusters[0] != "c9" {
		t.Error("the spec was sorted in place")
	}
	w := newWorkload(t, b)
	// By quorum, not from the informer.
	w.Cached = newWorkload(t).Cached
	if s, err := w.Scope(t.Context(), "n", "b"); err != nil || fmt.Sprint(s) != "[c1 c9]" {
		t.Errorf("read: %v %v", s, err)
	}
	for name, reader := range map[string]client.Reader{"b": broken(t), "lost": w.Live} {
		if _, err := (&Workload{Live: reader}).Scope(t.Context(), "n", name); err == nil {
			t.Errorf("scope of %s: no error", name)
		}
	}
}
