package controller

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Cluster answers the publisher's questions about the own cluster.
type Cluster struct {
	Budgets  *Budgets
	Workload *workload.Workload
	// Ledgers reads the ledgers from the informer.
	Ledgers func(ctx context.Context) ([]claim.Claim, error)
	// ConfiguredByFile: the instances are named by a file, so one that it no
	// longer names is gone by its author's word, once its marker has run out.
	ConfiguredByFile bool
	// Namespace and Service of the clustermesh-apiserver pods.
	Namespace, Service string
}

var _ publish.Cluster = (*Cluster)(nil)

// Parts implements publish.Cluster.
func (c *Cluster) Parts(ctx context.Context) ([]publish.Part, error) { return c.Budgets.Parts(ctx) }

// Claims implements publish.Cluster.
func (c *Cluster) Claims(ctx context.Context) ([]claim.Claim, error) { return c.Ledgers(ctx) }

// Ended implements publish.Cluster.
func (c *Cluster) Ended(ctx context.Context, namespace, pod, uid string) (bool, error) {
	return c.Workload.Ended(ctx, namespace, pod, uid)
}

// SeemsEnded implements publish.Cluster.
func (c *Cluster) SeemsEnded(ctx context.Context, namespace, name, uid string) publish.Sight {
	pod, err := c.Workload.CachedPod(ctx, namespace, name)
	switch {
	case err != nil:
		return publish.Alive
	case c.Workload.Running.SawEnd(uid):
		return publish.Ended
	case pod == nil || string(pod.UID) != uid:
		return publish.Missing
	case pod.DeletionTimestamp != nil:
		return publish.Ended
	default:
		return publish.Alive
	}
}

// LivePods implements publish.Cluster. It lists by quorum, once per restore of
// an instance, never for a decision.
func (c *Cluster) LivePods(ctx context.Context) (map[string]bool, error) {
	return c.Workload.LiveCovered(ctx)
}

// InstanceGone implements publish.Cluster.
func (c *Cluster) InstanceGone(ctx context.Context, instance string, missing time.Duration) (bool, error) {
	if c.ConfiguredByFile {
		return missing > 2*mesh.MarkerTTL*time.Second, nil
	}
	host, _, err := net.SplitHostPort(instance)
	if err != nil {
		return false, fmt.Errorf("split address %q: %w", instance, err)
	}
	var service corev1.Service
	if err := c.Workload.Live.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.Service}, &service); err != nil {
		return false, fmt.Errorf("read service of the own kvstore: %w", err)
	}
	pods, err := c.Workload.LivePods(ctx, &service)
	if err != nil {
		return false, err
	}
	// Not the endpoint slices: they move non-atomically, and leave out pods that failed.
	return !slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return !workload.IsTerminal(&pod) && slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == host })
	}), nil
}
