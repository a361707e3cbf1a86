package workload

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fewNamespaces is up to how many namespaces are listed one by one. For more of
// them one list of the whole cluster is cheaper.
const fewNamespaces = 20

// LiveCovered returns, by quorum lists, the pods that a budget covers and that
// are not terminating, by UID (R1 c), and the version of the pods as of which
// they are complete, 0 if that cannot be told. The lists have metadata only and
// come page by page: nothing holds them whole.
func (w *Workload) LiveCovered(ctx context.Context) (map[string]bool, uint64, error) {
	if err := w.Coverage.Synced(); err != nil {
		return nil, 0, err
	}
	namespaces := w.Coverage.Namespaces()
	if len(namespaces) > fewNamespaces {
		namespaces = []string{metav1.NamespaceAll}
	}
	live := map[string]bool{}
	if len(namespaces) == 0 {
		// Nothing is covered yet; the version matters to what will be.
		page, err := w.podPage(ctx, metav1.NamespaceAll, 1, "")
		if err != nil {
			return nil, 0, err
		}
		return live, Version(page.ResourceVersion), nil
	}
	var version uint64
	for _, namespace := range namespaces {
		listed, err := w.liveIn(ctx, namespace, live)
		if err != nil {
			return nil, 0, err
		}
		version = max(version, listed)
	}
	return live, version, nil
}

// Version orders the states of objects of one kind (KEP-5504); 0 if that cannot be told.
func Version(resourceVersion string) uint64 {
	v, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func (w *Workload) podPage(ctx context.Context, namespace string, size int64, token string) (*metav1.PartialObjectMetadataList, error) {
	page := &metav1.PartialObjectMetadataList{}
	page.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := w.Live.List(ctx, page, client.InNamespace(namespace), client.Limit(size), client.Continue(token)); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return page, nil
}

// liveIn adds the live pods of a namespace, and returns the version of its last page.
func (w *Workload) liveIn(ctx context.Context, namespace string, live map[string]bool) (uint64, error) {
	page := &metav1.PartialObjectMetadataList{}
	for {
		var err error
		if page, err = w.podPage(ctx, namespace, listPage, page.Continue); err != nil {
			return 0, err
		}
		for i := range page.Items {
			pod := &page.Items[i]
			_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
			if pod.DeletionTimestamp == nil && !mirror && w.Coverage.Covers(pod.Namespace, pod.Labels) {
				live[string(pod.UID)] = true
			}
		}
		if page.Continue == "" {
			return Version(page.ResourceVersion), nil
		}
	}
}
