package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// meshpdbCommand runs `kubectl meshpdb` as people do: kubectl finds the plugin in its PATH.
func meshpdbCommand(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	plugin, err := mesh.plugin()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := mesh.Clusters[0].KubectlCommand(ctx)
	cmd.Args = append([]string{cmd.Path, "meshpdb"}, args...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+mesh.Kubeconfig, "PATH="+filepath.Dir(plugin)+":"+os.Getenv("PATH"))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("kubectl meshpdb %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// wantSays runs kubectl meshpdb until its output has all of the words, and the exit code is as wanted.
func wantSays(t *testing.T, timeout time.Duration, code int, args string, words ...string) string {
	t.Helper()
	var out string
	eventually(t, timeout, "kubectl meshpdb "+args, func() error {
		stdout, stderr, got := meshpdbCommand(t, strings.Fields(args)...)
		out = stdout + stderr
		if got != code {
			return fmt.Errorf("exit code %d, want %d:\n%s", got, code, out)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("it does not say %q:\n%s", w, out)
			}
		}
		return nil
	})
	return out
}

// wantExplained checks that the plugin says of a pod, byte for byte, what the next eviction is refused with.
func wantExplained(t *testing.T, c *scenario.Cluster, namespace, pod, words string) {
	t.Helper()
	eventually(t, 30*time.Second, "a refusal that says "+words, func() error {
		said, stderr, code := meshpdbCommand(t, "explain", "pod/"+pod, "-n", namespace, "--context", c.Name, "-o", "jsonpath={.sentence}")
		err := c.Evict(t.Context(), namespace, pod)
		if !apierrors.IsTooManyRequests(err) {
			return fmt.Errorf("the eviction is answered %v", err)
		}
		if code != 1 || stderr != "" {
			t.Errorf("exit code %d, and says %s", code, stderr)
		}
		sentence := scenario.Sentence(err)
		if !strings.Contains(sentence, words) {
			// The state that is meant has not been told everywhere yet.
			return fmt.Errorf("the eviction is refused with %q", sentence)
		}
		if said != sentence && !(strings.Contains(words, "cannot be decided") && ageless(said) == ageless(sentence)) {
			t.Errorf("explained as\n%s\nrefused with\n%s", said, sentence)
		}
		t.Logf("%s: %s", c.Name, said)
		return nil
	})
}

// ageless cuts the age of the cached view off a sentence: each replica refuses from its view what it could not decide by
// reading for a second, so of two refusals for want of knowledge one may rest on the view and the other on a read.
func ageless(sentence string) string {
	return regexp.MustCompile(`, by a view (at most )?[0-9a-z]+ old$`).ReplaceAllString(sentence, "")
}

// TestPluginExplainsTheNextDenial: several kinds of refusals, by the plugin and then by an eviction.
func TestPluginExplainsTheNextDenial(t *testing.T) {
	w := budgeted(t, "plugin-explain", 3, maxUnavailable(1))
	c1, c2, c3 := mesh.clusters[0], mesh.clusters[1], mesh.clusters[2]
	pod := firstPod(t, w, c1)

	t.Run("it would go, and nothing is claimed", func(t *testing.T) {
		out := wantSays(t, 20*time.Second, 0, "explain pod/"+pod.Name+" -n plugin-explain --context c1",
			"pod/"+pod.Name+" would go now:", "budget plugin-explain/db allows 1 disruption", "9 of 9 pods available, it needs 8 (maxUnavailable 1)", "Warning: nothing is reserved")
		t.Log(out)
		var l v1alpha1.DisruptionLedger
		if err := c1.API.Get(t.Context(), types.NamespacedName{Name: w.Namespace}, &l); !apierrors.IsNotFound(err) && (err != nil || len(l.Claims) > 0) {
			t.Errorf("the ledger holds %v, %v", l.Claims, err)
		}
	})
	t.Run("native budget", func(t *testing.T) {
		alone := &scenario.Workload{Clusters: mesh.clusters[:1], Namespace: w.Namespace, Name: w.Name}
		if err := alone.NativeBudget(t.Context(), intstr.FromInt32(0)); err != nil {
			t.Fatal(err)
		}
		wantExplained(t, c1, w.Namespace, pod.Name, "PodDisruptionBudget db in this cluster allows no disruption now")
		if err := c1.Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Delete(t.Context(), w.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("another cluster holds it back", func(t *testing.T) {
		missing := firstPod(t, w, c2)
		annotatePod(t, c2, &missing, `""`)
		for _, c := range []*scenario.Cluster{c1, c3} {
			wantExplained(t, c, w.Namespace, firstPod(t, w, c).Name, "c2 2/3")
		}
		t.Log(wantSays(t, 20*time.Second, 0, "status db -n plugin-explain --context c1", "held back by c2 since ", "1 of 3 pods in cluster c2 is not available since ", "What would free it: the missing pods, once they are Ready in c2"))
		t.Log(wantSays(t, 20*time.Second, 1, "explain "+pod.Name+" -n plugin-explain --context c1", "would not go now:", "since "))
		t.Log(wantSays(t, 20*time.Second, 0, "history db -n plugin-explain --context c1", "DisruptionRefused", "meshpoddisruptionbudget/db"))
		annotatePod(t, c2, &missing, "null")
	})
	t.Run("a cluster cannot be read", func(t *testing.T) {
		instance := sandboxCluster(t, "c3").Instances[0]
		if err := instance.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := instance.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}()
		wantSays(t, 30*time.Second, 0, "status db -n plugin-explain --context c1", "held back by c3 since ", "Cluster c3 cannot be read since ", "kubectl meshpdb forget c3")
		wantExplained(t, c1, w.Namespace, pod.Name, "cannot be decided without cluster c3")
	})
	t.Run("never", func(t *testing.T) {
		if err := w.SetMaxUnavailable(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		wantNumbers(t, w, numbers{allowed: 0, available: 9, desired: 9, expected: 9, clusters: "3/3"})
		wantExplained(t, c1, w.Namespace, pod.Name, "maxUnavailable 0")
		wantSays(t, 20*time.Second, 0, "status db -n plugin-explain --context c2", "can never allow any")
	})
	t.Run("no budget of the mesh", func(t *testing.T) {
		alone := &scenario.Workload{Clusters: mesh.clusters[:1], Namespace: "plugin-native", Name: "db", Replicas: 1}
		if err := alone.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, alone) })
		if err := alone.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		name := firstPod(t, alone, c1).Name
		wantSays(t, 20*time.Second, 0, "explain "+name+" -n plugin-native --context c1", "would go now: no MeshPodDisruptionBudget covers it")
		if err := alone.NativeBudget(t.Context(), intstr.FromInt32(0)); err != nil {
			t.Fatal(err)
		}
		wantExplained(t, c1, alone.Namespace, name, "The disruption budget db needs 1 healthy pods")
		wantSays(t, 20*time.Second, 1, "explain "+name+" -n plugin-native --context c1", "PodDisruptionBudget plugin-native/db, which counts this cluster only, allows nothing since ", "What would free it: changing it")
	})
}

// TestPluginDoctor inflicts what may be wrong, and follows the doctor's advice where it is a command.
func TestPluginDoctor(t *testing.T) {
	w := budgeted(t, "plugin-doctor", 2, maxUnavailable(1))
	c1 := mesh.clusters[0]
	everywhere := "doctor --contexts c1,c2,c3"
	t.Log(wantSays(t, time.Minute, 0, everywhere, "Nothing is wrong.", "a dry-run eviction of plugin-doctor/db-", "every peer is read: c2 ", "all 6 webhooks are as this version ships them"))

	t.Run("a stopped kvstore", func(t *testing.T) {
		instance := sandboxCluster(t, "c3").Instances[0]
		if err := instance.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log(wantSays(t, time.Minute, 2, "doctor --contexts c1,c3 -q",
			"c1: peers: peer c3 cannot be read since ", "fix: start clustermesh-apiserver in c3",
			"c3: kvstore: instance "+strings.TrimPrefix(instance.Endpoint, "https://")+" of the own kvstore cannot be read since ", "c3: controllers: replica meshpdb-controller-1 cannot decide: the own kvstore: "))
		if err := instance.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantSays(t, time.Minute, 0, everywhere, "Nothing is wrong.")
	})
	t.Run("an unexported service", func(t *testing.T) {
		kubectl(t, c1, "-n", w.Namespace, "annotate", "service", w.Name, "service.cilium.io/global-")
		out := wantSays(t, time.Minute, 1, "doctor --context c1 -q", "WARNING   c1: services: service plugin-doctor/db of budget plugin-doctor/db is not exported by Cilium")
		fix := regexp.MustCompile(`fix: kubectl --context c1 (.*)\n`).FindStringSubmatch(out)
		if fix == nil {
			t.Fatalf("no fix in\n%s", out)
		}
		kubectl(t, c1, strings.Fields(fix[1])...)
		wantSays(t, time.Minute, 0, everywhere, "Nothing is wrong.")
	})
	t.Run("a webhook that fails open", func(t *testing.T) {
		setFailurePolicy(t, c1, admissionv1.Ignore)
		defer setFailurePolicy(t, c1, admissionv1.Fail)
		wantSays(t, 20*time.Second, 2, "doctor --context c1 -q", "ERROR     c1: webhook configurations: webhook evictions.meshpdb.io: failurePolicy is Ignore, and is shipped as Fail", "kubectl --context c1 apply -f deploy/webhooks.yaml")
	})
	t.Run("a webhook that nobody serves", func(t *testing.T) {
		controllers := sandboxCluster(t, "c2").Controllers
		for _, p := range controllers {
			p.Kill()
		}
		wantSays(t, 20*time.Second, 2, "doctor --context c2 -q", "ERROR     c2: webhook: the API server does not reach it: ", "until a controller serves it, every eviction in a namespace with a budget fails", "kubectl --context c2 -n kube-system get pods")
		pod := firstPod(t, w, mesh.clusters[1])
		wantSays(t, 20*time.Second, 1, "explain "+pod.Name+" -n plugin-doctor --context c2", "failed calling webhook", "To see what is wrong: kubectl meshpdb doctor --context c2")
		wantSays(t, time.Minute, 2, "doctor --context c2 -q", "c2: controllers: replica meshpdb-controller-1 has reported nothing since ", "no replica is left")
		for _, p := range controllers {
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantSays(t, time.Minute, 0, everywhere, "Nothing is wrong.")
	})
}

func setFailurePolicy(t *testing.T, c *scenario.Cluster, policy admissionv1.FailurePolicyType) {
	t.Helper()
	configurations := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	ctx := context.WithoutCancel(t.Context())
	configuration, err := configurations.Get(ctx, "meshpdb", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range configuration.Webhooks {
		if configuration.Webhooks[i].Name == "evictions.meshpdb.io" {
			configuration.Webhooks[i].FailurePolicy = &policy
		}
	}
	if _, err := configurations.Update(ctx, configuration, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestPluginSuspendsForgetsAndPlans changes budgets by the plugin, and drains what it has planned.
func TestPluginSuspendsForgetsAndPlans(t *testing.T) {
	w := budgeted(t, "plugin-change", 3, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]

	t.Run("plan drain", func(t *testing.T) { wantPlanned(t, w, c1, c2) })
	wantNumbers(t, w, numbers{allowed: 1, available: 9, desired: 8, expected: 9, clusters: "3/3"})

	t.Run("suspend and resume", func(t *testing.T) {
		missing := firstPod(t, w, c2)
		annotatePod(t, c2, &missing, `""`)
		wantExplained(t, c1, w.Namespace, firstPod(t, w, c1).Name, "c2 2/3")
		wantSays(t, 0, 0, "suspend db -n plugin-change --context c1", "meshpoddisruptionbudget.meshpdb.io/db suspended", "Warning: every disruption of their pods in context c1 is allowed")
		wantSays(t, 20*time.Second, 0, "explain "+firstPod(t, w, c1).Name+" -n plugin-change --context c1", "budget plugin-change/db is suspended in this cluster, and does not hold it")
		if _, err := evict(t, w, c1); err != nil {
			t.Error(err)
		}
		wantExplained(t, mesh.clusters[2], w.Namespace, firstPod(t, w, mesh.clusters[2]).Name, "c2 2/3")
		wantSays(t, 0, 0, "resume db -n plugin-change --context c1", "meshpoddisruptionbudget.meshpdb.io/db resumed")
		wantExplained(t, c1, w.Namespace, firstPod(t, w, c1).Name, "c2 2/3")
		annotatePod(t, c2, &missing, "null")
	})
	t.Run("forget", func(t *testing.T) {
		wantNumbers(t, w, numbers{allowed: 1, available: 9, desired: 8, expected: 9, clusters: "3/3"})
		wantSays(t, 0, 1, "forget c3 -n plugin-change --contexts c1,c2 --yes", "context c1 can read cluster c3")
		instance := sandboxCluster(t, "c3").Instances[0]
		if err := instance.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := instance.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}()
		wantExplained(t, c1, w.Namespace, firstPod(t, w, c1).Name, "cannot be decided without cluster c3")
		wantSays(t, 0, 0, "forget c3 -n plugin-change --contexts c1,c2", "c1: budget plugin-change/db would count on clusters c1, c2 only", "Nothing was changed")
		wantSays(t, 20*time.Second, 0, "forget c3 -n plugin-change --contexts c1,c2 --yes", "c2: budget plugin-change/db counts on clusters c1, c2 only")
		wantSays(t, 20*time.Second, 0, "explain "+firstPod(t, w, c1).Name+" -n plugin-change --context c1", "6 of 6 pods available, it needs 5 (maxUnavailable 1)")
		eventually(t, 20*time.Second, "an eviction without c3", func() error {
			_, err := evict(t, w, c1)
			return err
		})
	})
}

// wantPlanned drains a node in each of two clusters at once, and compares what goes at the first try with the plan.
func wantPlanned(t *testing.T, w *scenario.Workload, clusters ...*scenario.Cluster) {
	t.Helper()
	var nodes, contexts []string
	pods := 0
	for _, c := range clusters {
		node := firstPod(t, w, c).Spec.NodeName
		nodes, contexts = append(nodes, node), append(contexts, c.Name)
		pods += onNode(t, w, c, node)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if _, err := sandboxCluster(t, c.Name).Kubectl(ctx, "uncordon", node); err != nil {
				t.Error(err)
			}
		})
	}
	args := []string{"plan", "drain", "--contexts", strings.Join(contexts, ","), "--ignore-daemonsets", "--pod-selector=" + w.Selector()}
	for i, node := range nodes {
		args = append(args, contexts[i]+"/"+node)
	}
	out, stderr, code := meshpdbCommand(t, args...)
	t.Logf("%s%s", out, stderr)
	want := fmt.Sprintf("1 of %d pods would go at once, %d after others", pods, pods-1)
	if code != 0 || !strings.Contains(out, want) {
		t.Fatalf("exit code %d; the plan does not say %q", code, want)
	}
	refused := make([]map[string]bool, len(clusters))
	asked := make([]map[string]bool, len(clusters))
	var drains sync.WaitGroup
	for i, c := range clusters {
		refused[i], asked[i] = map[string]bool{}, map[string]bool{}
		drain := scenario.KubectlDrain{
			Kubectl: sandboxCluster(t, c.Name).KubectlCommand, Node: nodes[i], Selector: w.Selector(), Timeout: 3 * time.Minute,
			Line: func(l scenario.DrainLine) {
				if m := regexp.MustCompile(`^error when evicting pods/"([^"]+)"`).FindStringSubmatch(l.Text); m != nil {
					refused[i][m[1]] = true
				}
				if m := regexp.MustCompile(`^evicting pod [^/]+/(.+)$`).FindStringSubmatch(l.Text); m != nil {
					asked[i][m[1]] = true
				}
			},
		}
		drains.Go(func() {
			if _, err := drain.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	drains.Wait()
	atOnce, all := 0, 0
	for i := range clusters {
		all += len(asked[i])
		atOnce += len(asked[i]) - len(refused[i])
	}
	if all != pods || atOnce != 1 {
		t.Errorf("of %d pods %d went at the first try, want 1 of %d", all, atOnce, pods)
	}
}
