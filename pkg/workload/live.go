package workload

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fewNamespaces is up to how many namespaces are listed one by one. For more of
// them one list of the whole cluster is cheaper.
const fewNamespaces = 20

// LiveCovered returns, by quorum lists, the pods that a budget covers and that
// are not terminating, by UID (R1 c). The lists have metadata only and come
// page by page: nothing holds them whole.
func (w *Workload) LiveCovered(ctx context.Context) (map[string]bool, error) {
	if err := w.Coverage.Synced(); err != nil {
		return nil, err
	}
	namespaces := w.Coverage.Namespaces()
	if len(namespaces) > fewNamespaces {
		namespaces = []string{metav1.NamespaceAll}
	}
	live := map[string]bool{}
	for _, namespace := range namespaces {
		if err := w.liveIn(ctx, namespace, live); err != nil {
			return nil, err
		}
	}
	return live, nil
}

func (w *Workload) liveIn(ctx context.Context, namespace string, live map[string]bool) error {
	page := &metav1.PartialObjectMetadataList{}
	for {
		token := page.Continue
		page = &metav1.PartialObjectMetadataList{}
		page.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		if err := w.Live.List(ctx, page, client.InNamespace(namespace), client.Limit(listPage), client.Continue(token)); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range page.Items {
			pod := &page.Items[i]
			_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
			if pod.DeletionTimestamp == nil && !mirror && w.Coverage.Covers(pod.Namespace, pod.Labels) {
				live[string(pod.UID)] = true
			}
		}
		if page.Continue == "" {
			return nil
		}
	}
}
