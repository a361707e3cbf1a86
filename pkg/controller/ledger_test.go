package controller

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

func TestLedgersOfGoneNamespaces(t *testing.T) {
	ledger := func(pods ...string) *v1alpha1.DisruptionLedger {
		l := &v1alpha1.DisruptionLedger{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}}
		for _, pod := range pods {
			l.Claims = append(l.Claims, v1alpha1.DisruptionClaim{ID: pod, UID: pod, Pod: pod, State: "Granted", Ticket: 1})
		}
		return l
	}
	conflict := apierrors.NewConflict(schema.GroupResource{}, "n", nil)
	for name, c := range map[string]struct {
		objects []client.Object
		step    string
		err     error
		calls   string
		stays   bool
		fails   bool
	}{
		"the namespace is gone":   {objects: []client.Object{ledger()}, calls: "[delete n]"},
		"it stands":               {objects: []client.Object{ledger(), namespace("n")}, calls: "[]", stays: true},
		"claims are left":         {objects: []client.Object{ledger("p0")}, calls: "[]", stays: true},
		"nobody can say":          {objects: []client.Object{ledger()}, step: "getv1.Namespace", err: errors.New("broken"), calls: "[]", stays: true, fails: true},
		"somebody appends":        {objects: []client.Object{ledger()}, step: "delete", err: conflict, calls: "[delete n]", stays: true},
		"the API server fails":    {objects: []client.Object{ledger()}, step: "delete", err: errors.New("broken"), calls: "[delete n]", stays: true, fails: true},
		"there is none":           {calls: "[]"},
		"of another namespace":    {objects: []client.Object{ledger(), namespace("m")}, calls: "[delete n]"},
		"it cannot even be read":  {objects: []client.Object{ledger()}, step: "getv1alpha1.DisruptionLedger", err: errors.New("broken"), calls: "[]", stays: true, fails: true},
		"it went in the meantime": {objects: []client.Object{ledger()}, step: "delete", err: apierrors.NewNotFound(schema.GroupResource{}, "n"), calls: "[delete n]", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t, c.objects...)
			if c.step != "" {
				h.before[c.step] = func() error { return c.err }
			}
			_, err := (&Ledgers{Client: h, Live: h}).Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n"}})
			if (err != nil) != c.fails {
				t.Errorf("got %v", err)
			}
			expect(t, "calls", fmt.Sprint(h.taken()), c.calls)
			h.before = map[string]func() error{}
			if err := h.Get(t.Context(), types.NamespacedName{Name: "n"}, &v1alpha1.DisruptionLedger{}); len(c.objects) > 0 && (err == nil) != c.stays {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// The informer's word that a namespace stands is enough; that it is gone is not.
func TestLedgersAskTheInformerFirst(t *testing.T) {
	for name, c := range map[string]struct {
		informed, live []client.Object
		asked          int
		calls          string
	}{
		"it stands":                      {informed: []client.Object{namespace("n")}, live: []client.Object{namespace("n")}, calls: "[]"},
		"it is gone, not heard of yet":   {informed: []client.Object{namespace("n")}, calls: "[]"},
		"it is new, not heard of yet":    {live: []client.Object{namespace("n")}, asked: 1, calls: "[]"},
		"it is gone, and that was heard": {asked: 1, calls: "[delete n]"},
	} {
		t.Run(name, func(t *testing.T) {
			ledger := &v1alpha1.DisruptionLedger{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}}
			h, live := newHall(t, append(c.informed, ledger)...), newHall(t, c.live...)
			asked := 0
			live.before["getv1.Namespace"] = func() error { asked++; return nil }
			if _, err := (&Ledgers{Client: h, Live: live}).Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n"}}); err != nil {
				t.Error(err)
			}
			expect(t, "calls", fmt.Sprint(h.taken()), c.calls)
			if asked != c.asked {
				t.Errorf("the API server was asked %d times, want %d", asked, c.asked)
			}
		})
	}
}
