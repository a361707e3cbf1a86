package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/drain"
)

// DrainAll maintains every cluster at the same time: in each, one node after
// the other is cordoned, drained with kubectl's own code, and uncordoned.
func (w *Workload) DrainAll(ctx context.Context, timeout time.Duration, tally *Tally) error {
	failures := make([]error, len(w.Clusters))
	var drains sync.WaitGroup
	for i, c := range w.Clusters {
		drains.Go(func() { failures[i] = w.drainCluster(ctx, c, timeout, tally) })
	}
	drains.Wait()
	return errors.Join(failures...)
}

func (w *Workload) drainCluster(ctx context.Context, c *Cluster, timeout time.Duration, tally *Tally) error {
	client, err := tallied(c, tally)
	if err != nil {
		return err
	}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes of %s: %w", c.Name, err)
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		var out bytes.Buffer
		helper := &drain.Helper{
			Ctx: ctx, Client: client, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, GracePeriodSeconds: -1,
			Timeout: timeout, PodSelector: w.Selector(), Out: io.Discard, ErrOut: &out,
		}
		if err := drain.RunCordonOrUncordon(helper, node, true); err != nil {
			return fmt.Errorf("cordon %s/%s: %w", c.Name, node.Name, err)
		}
		if err := drain.RunNodeDrain(helper, node.Name); err != nil {
			return fmt.Errorf("drain %s/%s: %w: %s", c.Name, node.Name, err, out.String())
		}
		if err := drain.RunCordonOrUncordon(helper, node, false); err != nil {
			return fmt.Errorf("uncordon %s/%s: %w", c.Name, node.Name, err)
		}
	}
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
				tally.Record(c.Name, time.Since(start), answer(response))
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
