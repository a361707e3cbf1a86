package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/drain"
)

// Maintenance is work on all clusters at the same time: in each, one node
// after the other is cordoned, drained with kubectl's own code, and uncordoned.
type Maintenance struct {
	// Timeout of the drain of one node.
	Timeout time.Duration
	// Tally takes in the answers to the evictions.
	Tally *Tally
	// Progress, if not nil, is told which node of a cluster is worked on, and
	// "" once all of them are done. Several clusters call it at once.
	Progress func(cluster, node string)
}

// evictRetry is kubectl drain's own pause after a refusal. The drain code leaves
// it to its caller, and without one asks again at once.
const evictRetry = 5 * time.Second

// DrainAll maintains all nodes of every cluster.
func (w *Workload) DrainAll(ctx context.Context, timeout time.Duration, tally *Tally) error {
	return w.Maintain(ctx, Maintenance{Timeout: timeout, Tally: tally})
}

// Maintain does m and returns when all clusters are done. A cluster whose drain
// fails is left there, with the node cordoned; the others go on.
func (w *Workload) Maintain(ctx context.Context, m Maintenance) error {
	failures := make([]error, len(w.Clusters))
	var drains sync.WaitGroup
	for i, c := range w.Clusters {
		drains.Go(func() { failures[i] = w.maintainCluster(ctx, c, m) })
	}
	drains.Wait()
	return errors.Join(failures...)
}

func (w *Workload) maintainCluster(ctx context.Context, c *Cluster, m Maintenance) error {
	client, err := tallied(c, m.Tally)
	if err != nil {
		return err
	}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes of %s: %w", c.Name, err)
	}
	progress := m.Progress
	if progress == nil {
		progress = func(string, string) {}
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		progress(c.Name, node.Name)
		helper := &drain.Helper{
			Ctx: ctx, Client: client, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, GracePeriodSeconds: -1,
			EvictErrorRetryDelay: evictRetry, Timeout: m.Timeout, PodSelector: w.Selector(), Out: io.Discard, ErrOut: io.Discard,
		}
		if err := drain.RunCordonOrUncordon(helper, node, true); err != nil {
			return fmt.Errorf("cordon %s/%s: %w", c.Name, node.Name, err)
		}
		if err := drain.RunNodeDrain(helper, node.Name); err != nil {
			return fmt.Errorf("drain %s/%s: %w (last answer: %s)", c.Name, node.Name, err, m.Tally.newest(c.Name))
		}
		if err := drain.RunCordonOrUncordon(helper, node, false); err != nil {
			return fmt.Errorf("uncordon %s/%s: %w", c.Name, node.Name, err)
		}
	}
	progress(c.Name, "")
	return nil
}

// tallied returns a client that counts the answers to evictions on their way
// to kubectl's code, which keeps them to itself.
func tallied(c *Cluster, tally *Tally) (kubernetes.Interface, error) {
	config := rest.CopyConfig(c.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			start := time.Now()
			response, err := next.RoundTrip(r)
			if err == nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/eviction") {
				// .../namespaces/NAMESPACE/pods/NAME/eviction
				tally.Record(c.Name, path.Base(path.Dir(r.URL.Path)), time.Since(start), answer(response))
			}
			return response, err
		})
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", c.Name, err)
	}
	return client, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
