package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// ledgerResource is what API servers call ledgers.
var ledgerResource = schema.GroupVersionResource{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: "disruptionledgers"}

// namePods names the pods that hold budgets back, as far as they are this cluster's. Of other clusters only numbers are
// known here; then it names the command that tells, if a context has the cluster's name, and else says where to ask. What may not be read stays unnamed.
func (r *root) namePods(ctx context.Context, c *Cluster, reports []hold.Report) {
	covering := newCoverage(c)
	name := sync.OnceValue(func() string { return c.meshName(ctx) })
	for i := range reports {
		for j := range reports[i].HeldBackBy {
			h := &reports[i].HeldBackBy[j]
			if h.Reason != hold.InFlight && h.Reason != hold.Unavailable {
				continue
			}
			// If the controllers cannot be asked for it, the cluster may be named like its context.
			if h.Cluster == cmp.Or(name(), c.Context) {
				h.Pods = c.absent(ctx, covering, reports[i])
			} else if _, err := r.Clusters.Open(h.Cluster); err == nil {
				h.Commands = append(h.Commands, hold.Command{
					Purpose: "to see which, from " + h.Cluster + "'s own context",
					Run:     fmt.Sprintf("kubectl meshpdb status %s -n %s --context %s", reports[i].Name, reports[i].Namespace, h.Cluster),
				})
			} else {
				h.Elsewhere = fmt.Sprintf("to see which, in a context of cluster %s: kubectl meshpdb status %s -n %s", h.Cluster, reports[i].Name, reports[i].Namespace)
			}
		}
	}
}

// meshName is this cluster's name in the mesh, as its controllers tell it; empty if they cannot be asked.
func (c *Cluster) meshName(ctx context.Context) string {
	if c.name == "" {
		if replicas := c.replicas(ctx); len(replicas) > 0 {
			c.name = replicas[0].Cluster
		}
	}
	return c.name
}

// replicas are what this cluster's controllers tell of themselves, as far as that can be read.
func (c *Cluster) replicas(ctx context.Context) []roster.Replica {
	object, err := c.Kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, roster.ConfigMap, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	replicas, _ := roster.Read(object.Data) // those that can be read
	return replicas
}

// absent returns the pods of this cluster that are in flight or not available.
func (c *Cluster) absent(ctx context.Context, covering *coverage, r hold.Report) []hold.Pod {
	service, err := covering.service(ctx, r.Namespace, r.Service)
	if err != nil || service == nil || len(service.Spec.Selector) == 0 {
		return nil
	}
	pods, err := c.Kube.CoreV1().Pods(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return nil
	}
	granted := c.granted(ctx, r.Namespace)
	var all []hold.Pod
	for i := range pods.Items {
		p := &pods.Items[i]
		absent := hold.Pod{Name: p.Name, Node: p.Spec.NodeName}
		switch {
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
			continue
		case p.DeletionTimestamp != nil:
			absent.State, absent.InFlight = "terminating", true
		case granted[string(p.UID)]:
			absent.State, absent.InFlight = "disruption allowed, not terminating yet", true
		case !isReady(p):
			absent.State = "not Ready"
		default:
			continue
		}
		all = append(all, absent)
	}
	slices.SortFunc(all, func(a, b hold.Pod) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// granted are the UIDs of pods whose disruption was allowed.
func (c *Cluster) granted(ctx context.Context, namespace string) map[string]bool {
	object, err := c.Dynamic.Resource(ledgerResource).Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	uids := map[string]bool{}
	claims, _, _ := unstructured.NestedSlice(object.Object, "claims")
	for _, one := range claims {
		if claim, ok := one.(map[string]any); ok && claim["state"] == "Granted" {
			uid, _ := claim["uid"].(string)
			uids[uid] = true
		}
	}
	return uids
}

// podNames lists pods for people.
func podNames(pods []hold.Pod) string {
	var words []string
	for _, p := range pods {
		text := "pod/" + p.Name
		if p.Node != "" {
			text += " on node " + p.Node
		}
		words = append(words, text+" ("+p.State+")")
	}
	return strings.Join(words, ", ")
}
