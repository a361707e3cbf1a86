package workload

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// NewInformer is client-go's, but for where it begins: by [ListAfresh].
func NewInformer(from cache.ListerWatcher, example runtime.Object, resync time.Duration, indexers cache.Indexers) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(ListAfresh(from), example, resync, indexers)
}

// ListAfresh has an informer's first list be a quorum list: what it shows from
// its start on is never older than that start.
//
// client-go begins with resourceVersion=0, which any API server may answer from
// a watch cache that is behind; and the watch that follows may take its time.
// A replica that has just started would know less than the one before it, on
// whose knowledge grants in other clusters rest:
//
//   - budgets, and the Services that select their pods: a pod would be claimed
//     for some of its budgets only, or not at all, and the others count it;
//   - namespaces: a new leader would take off the label that the webhooks select,
//     because it has yet to hear of the budget that it stands for;
//   - ledgers, pods, owners, native budgets, nodes: nothing is granted by what
//     informers show of them alone. Behind, they cost conflicts, refusals and
//     publications that the next event corrects. It is simpler to have one rule.
//
// Where the API server streams lists (WatchList, by default in Kubernetes 1.32
// and since 1.34; client-go asks for it) the stream begins with resourceVersion
// unset, which is consistent already (KEP-3157). This is for those that do not, and for any
// single stream that fails: client-go then falls back to a list. All other
// requests stay as they are. After a watch that ended an informer lists again
// "not older than" the version that it has seen, or by quorum if that one has
// expired: it never goes back in time.
//
// It costs a list in pages of 500, by quorum, for each kind and start; [Pods] do the same.
func ListAfresh(from cache.ListerWatcher) cache.ListerWatcher {
	lists, watches := cache.ToListerWithContext(from), cache.ToWatcherWithContext(from)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			if options.ResourceVersion == "0" {
				options.ResourceVersion = ""
			}
			return lists.ListWithContext(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return watches.WatchWithContext(ctx, options)
		},
	}, from)
}
