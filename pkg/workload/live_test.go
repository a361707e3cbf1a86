package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestLiveCovered(t *testing.T) {
	now := metav1.Now()
	going := labelled("going", "db")
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
	mirror := labelled("mirror", "db")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
	elsewhere := labelled("elsewhere", "db")
	elsewhere.Namespace = "m"
	objects := []client.Object{service("db", "db"), budgetOf("b", "db"), budgetOf("lost", "lost"), labelled("db-0", "db"), labelled("web-0", "web"), going, mirror, elsewhere}
	w := newWorkload(t, objects...)
	var asked []string
	pages := func(inner client.Client) client.Client {
		return interceptor.NewClient(inner.(client.WithWatch), interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			var o client.ListOptions
			o.ApplyOptions(opts)
			_, metadata := list.(*metav1.PartialObjectMetadataList)
			asked = append(asked, fmt.Sprintf("%q metadata=%t %d %s", o.Namespace, metadata, o.Limit, o.Continue))
			err := c.List(ctx, list, opts...)
			if o.Continue == "" {
				list.SetContinue("more")
			}
			return err
		}})
	}
	w.Live = pages(w.Live.(client.Client))
	live, err := w.LiveCovered(t.Context())
	if err != nil || !maps.Equal(live, map[string]bool{"db-0": true}) {
		t.Errorf("got %v %v", live, err)
	}
	if want := []string{`"n" metadata=true 1000 `, `"n" metadata=true 1000 more`}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	for i := range fewNamespaces {
		b := budgetOf("b", "db")
		b.Namespace = fmt.Sprint("ns", i)
		w.Coverage.setBudget(b)
	}
	asked = nil
	if live, err = w.LiveCovered(t.Context()); err != nil || len(live) != 1 || len(asked) != 2 || asked[0] != `"" metadata=true 1000 ` {
		t.Errorf("got %v %v, asked %q: many namespaces take one list", live, err, asked)
	}
	if _, err := (&Workload{Coverage: NewCoverage(), Live: w.Live}).LiveCovered(t.Context()); !errors.Is(err, errNotListed) {
		t.Errorf("budgets that were not listed yet were taken for none: %v", err)
	}
	if _, err := (&Workload{Coverage: w.Coverage, Live: broken(t)}).LiveCovered(t.Context()); err == nil {
		t.Error("pods that could not be listed were taken for none")
	}
}
