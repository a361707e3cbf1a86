package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestIntent deletes with the real kubectl what covered pods live by: their
// node, their Deployment and their namespace.
func TestIntent(t *testing.T) {
	w := budgeted(t, "intent", 2, maxUnavailable(1))
	// Else the namespaces could not be removed.
	t.Cleanup(func() { protect(t, w, v1alpha1.DeletionProtectionWarn) })
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	node := firstPod(t, w, c1).Spec.NodeName
	there := map[int]string{1: "1 available pod", 2: "2 available pods"}[onNode(t, w, c1, node)]

	t.Run("deny", func(t *testing.T) {
		protect(t, w, v1alpha1.DeletionProtectionDeny)
		for _, c := range []struct{ args, words string }{
			{"node " + node, "deleting node " + node + " would take " + there + " of budget intent/db, which allows 1; drain it first, "},
			{"node " + node + " --dry-run=server", "deleting node " + node + " would take " + there},
			{"-n intent deployment db", "deleting deployment db would take 2 available pods of budget intent/db, which allows 1; scale it to zero first, "},
			{"-n intent deployment --all", "deleting deployment db would take 2 available pods"},
			{"-n intent replicaset --all", "would take 2 available pods of budget intent/db, which allows 1; evict its pods instead, "},
			{"namespace intent", "deleting namespace intent would take 2 available pods"},
		} {
			out, err := kubectlDelete(t, c1, c.args)
			for _, words := range []string{"TooManyRequests", c.words, "or set deletionProtection of intent/db to Warn"} {
				if err == nil || !strings.Contains(out, words) {
					t.Errorf("kubectl delete %s says %q (%v), not %q", c.args, out, err, words)
				}
			}
		}
		wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DeletionRefused", "deleting namespace intent would take 2 available pods")
		wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DeletionRefused", "deleting node "+node)
		// Its pods stay.
		wantQuiet(t, c1, "-n intent deployment db --cascade=orphan --dry-run=server")
		if err := w.AwaitReady(t.Context()); err != nil {
			t.Error(err)
		}
	})
	// Before the others go: what the budget counts as missing would hold up the scaling.
	t.Run("nothing to lose", func(t *testing.T) {
		scaled := mesh.clusters[2]
		<-scale(t, w, scaled, 0)
		wantQuiet(t, scaled, "-n intent deployment db --dry-run=server")
		eventually(t, time.Minute, "no pod is available", func() error {
			pods, err := w.Available(t.Context(), scaled)
			return errors.Join(err, wantNone(len(pods)))
		})
		wantQuiet(t, scaled, "namespace intent --dry-run=server")
		wantQuiet(t, scaled, "node c3-node-1 --dry-run=server")
		if err := w.AwaitAllowed(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
	t.Run("warn", func(t *testing.T) {
		protect(t, w, v1alpha1.DeletionProtectionWarn)
		wantWarning(t, c1, "namespace intent --dry-run=server", "deleting namespace intent takes 2 available pods of budget intent/db, which allows 1; scale its workloads to zero first")
		deleteNode(t, c1, node, func() {
			wantWarning(t, c1, "node "+node, "deleting node "+node+" takes "+there+" of budget intent/db, which allows 1; drain it first")
		})
		wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DeletionWarned", "drain it first")
		wantWarning(t, c1, "-n intent deployment db", "deleting deployment db takes 2 available pods of budget intent/db, which allows 1; scale it to zero first")
		eventually(t, time.Minute, "the pods go with their Deployment", func() error {
			pods, err := c1.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{})
			return errors.Join(err, wantNone(len(pods.Items)))
		})
		// kubectl waits for the end of it.
		wantWarning(t, c2, "namespace intent", "deleting namespace intent takes 2 available pods of budget intent/db")
		if _, err := c2.Client.CoreV1().Namespaces().Get(t.Context(), w.Namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("after kubectl delete namespace: %v", err)
		}
	})
}

// TestIntentWithoutControllers: meshpdb that does not run holds up no deletion of these.
func TestIntentWithoutControllers(t *testing.T) {
	w := budgeted(t, "intent-dead", 1, maxUnavailable(1))
	t.Cleanup(func() { protect(t, w, v1alpha1.DeletionProtectionWarn) })
	protect(t, w, v1alpha1.DeletionProtectionDeny)
	c3 := mesh.clusters[2]
	node := firstPod(t, w, c3).Spec.NodeName
	if out, err := kubectlDelete(t, c3, "node "+node); err == nil {
		t.Fatalf("while controllers run, it is not refused: %s", out)
	}
	controllers := sandboxCluster(t, c3.Name).Controllers
	for _, p := range controllers {
		p.Kill()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, p := range controllers {
			if err := p.Start(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	deleteNode(t, c3, node, func() {
		start := time.Now()
		if out, err := kubectlDelete(t, c3, "node "+node); err != nil {
			t.Errorf("without controllers: %v: %s", err, out)
		}
		if took := time.Since(start); took > answerTime {
			t.Errorf("without controllers it took %s", took)
		}
	})
	if out, err := kubectlDelete(t, c3, "-n intent-dead deployment db"); err != nil {
		t.Errorf("without controllers: %v: %s", err, out)
	}
}

// protect sets the protection in every cluster that has the budget still, and waits until all controllers know. It
// works after the test's own context has ended.
func protect(t *testing.T, w *scenario.Workload, protection v1alpha1.DeletionProtection) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range w.Clusters {
		b, err := w.GetBudget(ctx, c)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		before := b.DeepCopy()
		b.Spec.DeletionProtection = protection
		if err := c.API.Patch(ctx, b, client.MergeFrom(before)); err != nil {
			t.Error(err)
			continue
		}
		err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			// Either controller may be asked.
			for range 4 {
				err := c.Client.CoreV1().Namespaces().Delete(ctx, w.Namespace, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
				if apierrors.IsTooManyRequests(err) != (protection == v1alpha1.DeletionProtectionDeny) {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			t.Errorf("protection %s in %s: %v", protection, c.Name, err)
		}
	}
}

// kubectlDelete returns what kubectl wrote to its standard error.
func kubectlDelete(t *testing.T, c *scenario.Cluster, args string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := sandboxCluster(t, c.Name).KubectlCommand(ctx, append([]string{"delete"}, strings.Fields(args)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	return stderr.String(), err
}

// wantWarning checks that kubectl deletes with one warning, however often the API server asks.
func wantWarning(t *testing.T, c *scenario.Cluster, args, words string) {
	t.Helper()
	out, err := kubectlDelete(t, c, args)
	if err != nil || strings.Count(out, "Warning: deleting") != 1 || !strings.Contains(out, "Warning: "+words) {
		t.Errorf("kubectl delete %s says %q (%v), not %q", args, out, err, words)
	}
}

// wantQuiet checks that kubectl deletes without a word of meshpdb.
func wantQuiet(t *testing.T, c *scenario.Cluster, args string) {
	t.Helper()
	if out, err := kubectlDelete(t, c, args); err != nil || strings.Contains(out, "available pod") || strings.Contains(out, "meshpdb") {
		t.Errorf("kubectl delete %s says %q (%v)", args, out, err)
	}
}

// deleteNode runs what deletes a node, checks that it is gone, and makes it
// anew before the pods on it are taken for orphans (40 s later).
func deleteNode(t *testing.T, c *scenario.Cluster, name string, deletion func()) {
	t.Helper()
	nodes := c.Client.CoreV1().Nodes()
	node, err := nodes.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deletion()
	if _, err := nodes.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the node's deletion was let through, and reading it says: %v", err)
		return
	}
	again := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: node.Labels}}
	if _, err := nodes.Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the node is ready again", func() error {
		node, err := nodes.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v, its taints %+v", node.Status.Conditions, node.Spec.Taints)
	})
}

// onNode counts the available pods of a node.
func onNode(t *testing.T, w *scenario.Workload, c *scenario.Cluster, node string) int {
	t.Helper()
	pods, err := w.Available(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range pods {
		if p.Spec.NodeName == node {
			n++
		}
	}
	return n
}

func wantNone(n int) error {
	if n > 0 {
		return fmt.Errorf("there are still %d", n)
	}
	return nil
}
