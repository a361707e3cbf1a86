package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestLostTaintEvictionsAreCompleted: the taint manager meets no webhook, gives
// up after its five attempts and forgets the pods. They go once the budget lets
// them, one by one, and exactly as long as their node has the taint.
func TestLostTaintEvictionsAreCompleted(t *testing.T) {
	w := budgeted(t, "taints", 4, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	node, pods := fullestNode(t, w, c1)
	t.Cleanup(func() { untaint(t, c1, node) })

	_, free := spend(t, w, c2)
	loseTaint(t, w, c1, node, pods)
	eventually(t, 40*time.Second, "what waits is told", func() error {
		b, err := w.GetBudget(t.Context(), c1)
		if err != nil {
			return err
		}
		if int(b.Status.WaitingDisruptions) != len(pods) || len(b.Status.Waiting) != len(pods) {
			return fmt.Errorf("status tells of %d: %+v", b.Status.WaitingDisruptions, b.Status.Waiting)
		}
		for _, waits := range b.Status.Waiting {
			if _, ours := pods[waits.Name]; !ours || waits.Kind != "Pod" || waits.Reason != v1alpha1.WaitingTaintEviction || !strings.Contains(waits.Message, node) {
				return fmt.Errorf("it tells of %+v", waits)
			}
		}
		return nil
	})
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionWaiting", node)
	steadily(t, 3*time.Second, "the budget is spent", func() error { return stay(t, w, c1, pods) })
	untaint(t, c1, node)
	eventually(t, 10*time.Second, "nothing waits any more", func() error { return waitsFor(t, w, c1, 0) })
	free()
	steadily(t, 8*time.Second, "the node is untainted", func() error { return stay(t, w, c1, pods) })

	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	loseTaint(t, w, c1, node, pods)
	eventually(t, 2*time.Minute, "all pods leave the node", func() error {
		on, err := podsOn(t, w, c1, node)
		if err == nil && len(on) > 0 {
			err = fmt.Errorf("%d are left", len(on))
		}
		return err
	})
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionRedriven", "was evicted after")
	eventually(t, 10*time.Second, "nothing waits any more", func() error { return waitsFor(t, w, c1, 0) })
	judge(t, witness, 1)
}

// TestControllersInBackOffAreTold: the ReplicaSet controller puts a refused
// deletion off, each time twice as long. When budget frees it is told within 5 s.
func TestControllersInBackOffAreTold(t *testing.T) {
	w := budgeted(t, "back-off", 3, minAvailable(8))
	c2, c3 := mesh.clusters[1], mesh.clusters[2]
	spent, free := spend(t, w, c2)
	scale(t, w, c3, 2)
	three := func() error {
		pods, err := w.Available(t.Context(), c3)
		if err == nil && len(pods) != 3 {
			err = fmt.Errorf("%d pods are available", len(pods))
		}
		return err
	}
	// By then the controller's own next attempt is 20 s after the last one, or nearly so.
	steadily(t, 24*time.Second, "the budget is spent", three)
	if err := waitsFor(t, w, c3, 1); err != nil {
		t.Error(err)
	}
	freed := sight(t, w, c2, func(p *corev1.Pod, _ bool) bool { return p.UID == spent.UID && isReady(p) })
	going := sight(t, w, c3, func(p *corev1.Pod, _ bool) bool { return p.DeletionTimestamp != nil })
	free()
	start := sighted(t, freed)
	took := sighted(t, going).Sub(start)
	t.Logf("the third pod went %s after budget had freed", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("the third pod went %s after budget had freed, want 5 s at most", took)
	}
	wantEvent(t, c3, w.Namespace, "MeshPodDisruptionBudget", "DisruptionRedriven", "was told to try again")
	eventually(t, 10*time.Second, "nothing waits any more", func() error { return waitsFor(t, w, c3, 0) })
}

// spend makes a pod of a cluster unready, and returns it and what makes it ready again.
func spend(t *testing.T, w *scenario.Workload, c *scenario.Cluster) (pod corev1.Pod, free func()) {
	t.Helper()
	pod = firstPod(t, w, c)
	annotatePod(t, c, &pod, `""`)
	if err := w.AwaitAllowed(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return pod, func() { annotatePod(t, c, &pod, "null") }
}

func sighted(t *testing.T, at <-chan time.Time) time.Time {
	t.Helper()
	select {
	case when := <-at:
		return when
	case <-time.After(30 * time.Second):
		t.Fatal("it is never sighted")
		panic("unreachable")
	}
}

// loseTaint taints a node while no controller of its cluster runs, and starts
// them again when the taint manager has given up.
func loseTaint(t *testing.T, w *scenario.Workload, c *scenario.Cluster, node string, pods map[string]types.UID) {
	t.Helper()
	controllers := sandboxCluster(t, c.Name).Controllers
	for _, controller := range controllers {
		controller.Kill()
	}
	setTaints(t, c, node, `[{"key":"maintenance","value":"yes","effect":"NoExecute"}]`)
	eventually(t, 20*time.Second, "the taint manager tries", func() error {
		for name := range pods {
			pod, err := c.Client.CoreV1().Pods(w.Namespace).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !isTarget(pod) {
				return fmt.Errorf("%s is no DisruptionTarget", name)
			}
		}
		return nil
	})
	// Its attempts take 50 ms and what the API server's calls of the webhook take.
	steadily(t, 4*time.Second, "the webhook is gone", func() error { return stay(t, w, c, pods) })
	for _, controller := range controllers {
		if err := controller.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func isTarget(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.DisruptionTarget && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// fullestNode returns the node with the most pods, and them.
func fullestNode(t *testing.T, w *scenario.Workload, c *scenario.Cluster) (string, map[string]types.UID) {
	t.Helper()
	nodes, err := c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var fullest string
	var most map[string]types.UID
	for _, n := range nodes.Items {
		pods, err := podsOn(t, w, c, n.Name)
		if err != nil {
			t.Fatal(err)
		}
		if len(pods) > len(most) {
			fullest, most = n.Name, pods
		}
	}
	if len(most) < 2 {
		t.Fatalf("no node has two pods: %v", most)
	}
	return fullest, most
}

// podsOn returns the pods on a node that do not terminate.
func podsOn(t *testing.T, w *scenario.Workload, c *scenario.Cluster, node string) (map[string]types.UID, error) {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: w.Selector()})
	if err != nil {
		return nil, err
	}
	pods := map[string]types.UID{}
	for _, p := range list.Items {
		if p.Spec.NodeName == node && p.DeletionTimestamp == nil {
			pods[p.Name] = p.UID
		}
	}
	return pods, nil
}

// stay checks that these very pods are there and do not terminate.
func stay(t *testing.T, w *scenario.Workload, c *scenario.Cluster, pods map[string]types.UID) error {
	t.Helper()
	for name, uid := range pods {
		pod, err := c.Client.CoreV1().Pods(w.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.UID != uid || pod.DeletionTimestamp != nil {
			return fmt.Errorf("pod %s was disrupted", name)
		}
	}
	return nil
}

func waitsFor(t *testing.T, w *scenario.Workload, c *scenario.Cluster, n int32) error {
	t.Helper()
	b, err := w.GetBudget(t.Context(), c)
	if err == nil && b.Status.WaitingDisruptions != n {
		err = fmt.Errorf("the status tells of %d that wait, want %d: %+v", b.Status.WaitingDisruptions, n, b.Status.Waiting)
	}
	return err
}

func setTaints(t *testing.T, c *scenario.Cluster, node, taints string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	body := fmt.Sprintf(`{"spec":{"taints":%s}}`, taints)
	if _, err := c.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func untaint(t *testing.T, c *scenario.Cluster, node string) {
	t.Helper()
	setTaints(t, c, node, "null")
}

// steadily polls for a while, in which check must return nil.
func steadily(t *testing.T, d time.Duration, what string, check func() error) {
	t.Helper()
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-end.C:
			return
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-tick.C:
		}
	}
}
