package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

func reconcileService(t *testing.T, h *hall) error {
	t.Helper()
	_, err := (&Services{Client: h, Recorder: h}).Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: "db"}})
	return err
}

// annotated sets annotations, or takes them off by an empty value.
func (h *hall) annotate(t *testing.T, values ...string) {
	t.Helper()
	var s corev1.Service
	if err := h.Get(t.Context(), types.NamespacedName{Namespace: "n", Name: "db"}, &s); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(values); i += 2 {
		if values[i+1] == "" {
			delete(s.Annotations, values[i])
		} else {
			s.Annotations[values[i]] = values[i+1]
		}
	}
	if err := h.Update(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	h.taken()
}

func spelled(b *v1alpha1.MeshPodDisruptionBudget) string {
	if b == nil {
		return "none"
	}
	text := b.Spec.Service
	if v := b.Spec.MinAvailable; v != nil {
		text += " min " + v.String()
	}
	if v := b.Spec.MaxUnavailable; v != nil {
		text += " max " + v.String()
	}
	return text
}

// One Service through the life of its annotation.
func TestTheAnnotationMakesABudget(t *testing.T) {
	h := newHall(t, globalService("n", "db"))
	for _, step := range []struct {
		annotations []string
		want, calls string
	}{
		{nil, "none", "[]"},
		{[]string{v1alpha1.MaxUnavailableAnnotation, "1"}, "db max 1", "[create db]"},
		{nil, "db max 1", "[]"},
		{[]string{v1alpha1.MaxUnavailableAnnotation, "30%"}, "db max 30%", "[update db]"},
		{[]string{v1alpha1.MaxUnavailableAnnotation, "", v1alpha1.MinAvailableAnnotation, "2"}, "db min 2", "[update db]"},
		{[]string{v1alpha1.MinAvailableAnnotation, "3"}, "db min 3", "[update db]"},
		{[]string{v1alpha1.MinAvailableAnnotation, "2"}, "db min 2", "[update db]"},
		{nil, "db min 2", "[]"},
		// A Service that stops being global is told of, and loses no protection by it.
		{[]string{"service.cilium.io/global", "false"}, "db min 2", "[]"},
		{[]string{v1alpha1.MinAvailableAnnotation, ""}, "none", "[delete db]"},
		{nil, "none", "[]"},
	} {
		h.annotate(t, step.annotations...)
		if err := reconcileService(t, h); err != nil {
			t.Fatal(err)
		}
		expect(t, fmt.Sprint(step.annotations), h.taken(), step.calls)
		b := h.budget(t, "n", "db")
		expect(t, fmt.Sprint(step.annotations), spelled(b), step.want)
		if b == nil {
			continue
		}
		owner := metav1.GetControllerOf(b)
		if owner == nil || owner.Kind != "Service" || owner.APIVersion != "v1" || owner.Name != "db" || owner.UID != "n/db" {
			t.Errorf("owner: %+v", owner)
		}
	}
	expect(t, "events", h.events, `[db Warning ServiceNotGlobal: annotation meshpdb.io/max-unavailable or meshpdb.io/min-available needs a global service: set service.cilium.io/global to "true"]`)
}

// What somebody has set apart from the bound is theirs.
func TestTheAnnotationLeavesOtherFields(t *testing.T) {
	h := newHall(t, globalService("n", "db"))
	h.annotate(t, v1alpha1.MaxUnavailableAnnotation, "1")
	if err := reconcileService(t, h); err != nil {
		t.Fatal(err)
	}
	b := h.budget(t, "n", "db")
	b.Spec.Clusters = []string{"c1", "c2"}
	if err := h.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	h.annotate(t, v1alpha1.MaxUnavailableAnnotation, "2")
	if err := reconcileService(t, h); err != nil {
		t.Fatal(err)
	}
	b = h.budget(t, "n", "db")
	expect(t, "budget", fmt.Sprint(spelled(b), b.Spec.Clusters), "db max 2[c1 c2]")
}

func TestServicesThatMakeNoBudget(t *testing.T) {
	private := globalService("n", "db")
	private.Annotations = map[string]string{v1alpha1.MaxUnavailableAnnotation: "1"}
	asking := func(bound string) *corev1.Service {
		s := globalService("n", "db")
		s.Annotations[v1alpha1.MaxUnavailableAnnotation] = bound
		return s
	}
	predecessors := newBudget("n", "db")
	controls := true
	predecessors.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "db", UID: "an earlier service", Controller: &controls}}
	for name, c := range map[string]struct {
		objects []client.Object
		step    string
		err     error
		event   string
		fails   bool
		want    string
	}{
		"no service":         {want: "none"},
		"not global":         {objects: []client.Object{private}, event: "db Warning ServiceNotGlobal: ", want: "none"},
		"somebody's budget":  {objects: []client.Object{asking("1"), newBudget("n", "db")}, event: "db Warning BudgetExists: budget db exists", want: "db max 1"},
		"an earlier one's":   {objects: []client.Object{asking("1"), predecessors}, event: "db Warning BudgetExists: ", want: "db max 1"},
		"not asked, theirs":  {objects: []client.Object{globalService("n", "db"), newBudget("n", "db")}, want: "db max 1"},
		"invalid":            {objects: []client.Object{asking("1")}, step: "create", err: apierrors.NewInvalid(schema.GroupKind{Kind: "MeshPodDisruptionBudget"}, "db", nil), event: "db Warning InvalidBudget: the annotation does not make a valid budget: ", want: "none"},
		"cut to 32 bits":     {objects: []client.Object{asking("4294967297")}, event: `db Warning InvalidBudget: the annotation does not make a valid budget: meshpdb.io/max-unavailable: "4294967297": must be a number of pods, 0 or more, or a percentage`, want: "none"},
		"signed":             {objects: []client.Object{asking("+1")}, event: "db Warning InvalidBudget: ", want: "none"},
		"an essay":           {objects: []client.Object{asking(strings.Repeat("1", 200_000))}, event: "db Warning InvalidBudget: the annotation does not make a valid budget: meshpdb.io/max-unavailable: 200000 characters: must be", want: "none"},
		"API server fails":   {objects: []client.Object{asking("1")}, step: "create", err: errors.New("broken"), fails: true, want: "none"},
		"informer is behind": {objects: []client.Object{asking("1")}, step: "create", err: apierrors.NewAlreadyExists(schema.GroupResource{}, "db"), fails: true, want: "none"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t, c.objects...)
			if c.step != "" {
				h.before[c.step] = func() error { return c.err }
			}
			if err := reconcileService(t, h); (err != nil) != c.fails {
				t.Errorf("got %v", err)
			}
			expect(t, "budget", spelled(h.budget(t, "n", "db")), c.want)
			if c.event == "" && len(h.events) > 0 || c.event != "" && !has(h.events, c.event) {
				t.Errorf("events: %q", h.events)
			}
			for _, call := range h.taken() {
				if call != "create db" {
					t.Errorf("call: %s", call)
				}
			}
		})
	}
	h := newHall(t, asking("1"))
	h.before["getv1alpha1.MeshPodDisruptionBudget"] = func() error { return errors.New("broken") }
	if err := reconcileService(t, h); err == nil {
		t.Error("a budget that could not be read was taken for none")
	}
}
