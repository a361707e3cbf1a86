package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// tellTime is how soon every cluster tells of a change, after the API of the
// cluster in which it happened does.
const tellTime = time.Second

// TestKubectlTellsTheTruth compares what the real kubectl prints in every
// cluster, and how soon it follows the pods.
func TestKubectlTellsTheTruth(t *testing.T) {
	w := budgeted(t, "kubectl", 3, maxUnavailable(1))
	c1, c2, c3 := mesh.clusters[0], mesh.clusters[1], mesh.clusters[2]
	whole := numbers{allowed: 1, available: 9, desired: 8, expected: 9, clusters: "3/3"}
	wantNumbers(t, w, whole)
	t.Run("output", func(t *testing.T) { wantOutput(t, w) })

	t.Run("a pod is evicted", func(t *testing.T) {
		pod := firstPod(t, w, c1)
		going := sight(t, w, c1, func(p *corev1.Pod, _ bool) bool { return p.Name == pod.Name && p.DeletionTimestamp != nil })
		gone := sight(t, w, c1, func(p *corev1.Pod, deleted bool) bool { return p.Name == pod.Name && deleted })
		back := sight(t, w, c1, readyAfter(pod.Name))
		if err := c1.Evict(t.Context(), w.Namespace, pod.Name); err != nil {
			t.Fatal(err)
		}
		wantTold(t, w, "a pod terminates", numbers{allowed: 0, available: 8, desired: 8, expected: 9, inFlight: 1, clusters: "3/3"}, going)
		wantTold(t, w, "it is gone and its successor ready", whole, gone, back)
	})
	t.Run("a pod becomes unready", func(t *testing.T) {
		pod := firstPod(t, w, c2)
		unready := sight(t, w, c2, func(p *corev1.Pod, _ bool) bool { return p.Name == pod.Name && !isReady(p) })
		annotatePod(t, c2, &pod, `""`)
		wantTold(t, w, "a pod is not ready", numbers{allowed: 0, available: 8, desired: 8, expected: 9, clusters: "3/3"}, unready)
		ready := sight(t, w, c2, func(p *corev1.Pod, _ bool) bool { return p.Name == pod.Name && isReady(p) })
		annotatePod(t, c2, &pod, "null")
		wantTold(t, w, "the pod is ready again", whole, ready)
	})
	t.Run("the workload is scaled", func(t *testing.T) {
		larger := numbers{allowed: 1, available: 10, desired: 9, expected: 10, clusters: "3/3"}
		known := map[string]bool{}
		pods, err := w.Available(t.Context(), c3)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			known[p.Name] = true
		}
		ready := sight(t, w, c3, func(p *corev1.Pod, _ bool) bool { return !known[p.Name] && isReady(p) })
		wantTold(t, w, "the scale is 4", numbers{allowed: 0, available: 9, desired: 9, expected: 10, clusters: "3/3"}, scale(t, w, c3, 4))
		wantTold(t, w, "the fourth pod is ready", larger, ready)
		going := sight(t, w, c3, func(p *corev1.Pod, _ bool) bool { return p.DeletionTimestamp != nil })
		gone := sight(t, w, c3, func(_ *corev1.Pod, deleted bool) bool { return deleted })
		scale(t, w, c3, 3)
		leaving := whole
		leaving.inFlight = 1
		wantTold(t, w, "the fourth pod terminates", leaving, going)
		wantTold(t, w, "the fourth pod is gone", whole, gone)
	})
	t.Run("a kvstore is killed", func(t *testing.T) { wantUnreachableTold(t, w, whole) })
}

// wantUnreachableTold kills the kvstore of c3. That cannot be told within
// tellTime: a connection that is lost is, but a store that does not answer is
// believed for the time-out of a probe.
func wantUnreachableTold(t *testing.T, w *scenario.Workload, whole numbers) {
	t.Helper()
	const unreachableTime, restoreTime = 5 * time.Second, 15 * time.Second
	instance := sandboxCluster(t, "c3").Instances[0]
	now := func() <-chan time.Time {
		at := make(chan time.Time, 1)
		at <- time.Now()
		return at
	}
	if err := instance.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	blind := numbers{allowed: 0, available: 6, desired: 8, expected: 9, clusters: "2/3"}
	wantToldWithin(t, w, unreachableTime, "a kvstore is killed", blind, now())
	for _, c := range mesh.clusters {
		out := kubectl(t, c, "-n", w.Namespace, "get", "mpdb", w.Name, "-o", "wide")
		if !strings.Contains(out, "cannot be decided without cluster c3") {
			t.Errorf("%s: -o wide does not say why:\n%s", c.Name, out)
		}
	}
	if err := instance.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantToldWithin(t, w, restoreTime, "the kvstore is back", whole, now())
}

// wantOutput compares with the golden files, in every cluster.
func wantOutput(t *testing.T, w *scenario.Workload) {
	t.Helper()
	for name, args := range map[string][]string{
		"get":      {"-n", w.Namespace, "get", "mpdb"},
		"wide":     {"-n", w.Namespace, "get", "mpdb", "-o", "wide"},
		"describe": {"-n", w.Namespace, "describe", "mpdb", w.Name},
	} {
		golden, err := os.ReadFile(filepath.Join("testdata", "kubectl", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range mesh.clusters {
			got := masked(kubectl(t, c, args...))
			if name == "describe" {
				got = section(got, "Status:", "Events:")
			}
			if got != string(golden) {
				t.Errorf("%s: kubectl %s prints\n%s\nwant\n%s", c.Name, strings.Join(args, " "), got, golden)
			}
		}
	}
	for _, words := range []string{"-required-", "maxUnavailable is how many pods of the whole mesh may be unavailable"} {
		if out := kubectl(t, mesh.clusters[0], "explain", "mpdb.spec"); !strings.Contains(out, words) {
			t.Errorf("kubectl explain mpdb.spec does not say %q:\n%s", words, out)
		}
	}
	// All namespaces: other tests' budgets may be on their way out.
	for _, c := range mesh.clusters {
		out := kubectl(t, c, "get", "mpdb", "-A")
		if !regexp.MustCompile(`(?m)^NAMESPACE +NAME +ALLOWED `).MatchString(out) || !regexp.MustCompile(`(?m)^kubectl +db +1 +9 +8 +9 +0 +3/3 +True `).MatchString(out) {
			t.Errorf("%s: kubectl get mpdb -A prints\n%s", c.Name, out)
		}
	}
}

// masked hides what differs from run to run, and the spaces that kubectl pads it with.
func masked(out string) string {
	out = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(out, "TIME")
	out = regexp.MustCompile(`(True|False) +(\d+[dhms])+`).ReplaceAllString(out, "$1   AGE")
	out = regexp.MustCompile(`AGE +`).ReplaceAllString(out, "AGE   ")
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(out, "")
}

// section returns the lines from one heading to the next.
func section(out, from, to string) string {
	_, rest, _ := strings.Cut(out, "\n"+from+"\n")
	rest, _, _ = strings.Cut(rest, "\n"+to)
	return from + "\n" + rest + "\n"
}

// kubectl may be called by any goroutine.
func kubectl(t *testing.T, c *scenario.Cluster, args ...string) string {
	t.Helper()
	cluster, err := mesh.Cluster(c.Name)
	if err != nil {
		t.Error(err)
		return ""
	}
	out, err := cluster.Kubectl(t.Context(), args...)
	if err != nil {
		t.Error(err)
	}
	return out
}

// annotatePod sets the annotation that makes a pod unready, or takes it off by "null".
func annotatePod(t *testing.T, c *scenario.Cluster, pod *corev1.Pod, value string) {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, sandbox.UnreadyAnnotation, value)
	_, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// scale sets the replicas in one cluster and sends the time when that stood.
func scale(t *testing.T, w *scenario.Workload, c *scenario.Cluster, replicas int32) <-chan time.Time {
	t.Helper()
	deployments := c.Client.AppsV1().Deployments(w.Namespace)
	current, err := deployments.GetScale(t.Context(), w.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	current.Spec.Replicas = replicas
	if _, err := deployments.UpdateScale(t.Context(), w.Name, current, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	at := make(chan time.Time, 1)
	at <- time.Now()
	return at
}

// TestKubectlDrain drains a node with the real kubectl while the budget is
// spent: it is refused, says why, and waits until its pod may go.
func TestKubectlDrain(t *testing.T) {
	w := budgeted(t, "kubectl-drain", 3, maxUnavailable(1))
	pod := firstPod(t, w, mesh.clusters[0])
	if _, err := evict(t, w, mesh.clusters[1]); err != nil {
		t.Fatal(err)
	}
	c1 := sandboxCluster(t, "c1")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := c1.Kubectl(ctx, "uncordon", pod.Spec.NodeName); err != nil {
			t.Error(err)
		}
	})
	drain := scenario.KubectlDrain{
		Kubectl: c1.KubectlCommand, Node: pod.Spec.NodeName, Selector: w.Selector(), Timeout: time.Minute,
		Line: func(l scenario.DrainLine) { t.Logf("%s %s", l.At.Format("05.000"), l.Text) },
	}
	lines, err := drain.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range lines {
		all = append(all, l.Text)
	}
	out := strings.Join(all, "\n")
	for _, words := range []string{"(will retry after 5s)", "Cannot evict pod as it would violate the pod's disruption budget", "needs 8 (maxUnavailable 1", "node/" + pod.Spec.NodeName + " drained"} {
		if !strings.Contains(out, words) {
			t.Errorf("the drain does not say %q", words)
		}
	}
	wantDrainTold(t, w, pod.Spec.NodeName)
}

// wantDrainTold: what people look at while a drain waits, and wait for in scripts.
func wantDrainTold(t *testing.T, w *scenario.Workload, node string) {
	t.Helper()
	c1 := mesh.clusters[0]
	eventually(t, 10*time.Second, "the node tells that its drain was held up", func() error {
		out := kubectl(t, c1, "describe", "node", node)
		if !strings.Contains(out, "DrainBlocked") || !strings.Contains(out, "cannot be evicted yet: evicting ") {
			return fmt.Errorf("kubectl describes it as %s", out)
		}
		return nil
	})
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, condition := range []string{"Enforced", "DisruptionAllowed", "NotShared=false"} {
		out := kubectl(t, c1, "-n", w.Namespace, "wait", "--for=condition="+condition, "--timeout=30s", "mpdb/"+w.Name)
		if !strings.Contains(out, "condition met") {
			t.Errorf("kubectl wait for %s: %s", condition, out)
		}
	}
	b, err := w.GetBudget(t.Context(), c1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.Status.Conditions {
		if c.ObservedGeneration != b.Generation || c.LastTransitionTime.IsZero() {
			t.Errorf("condition %s is of generation %d, the budget of %d", c.Type, c.ObservedGeneration, b.Generation)
		}
	}
}
