package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/history"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// TestPaths goes along every path of the table of package paths, each with the
// caller that the table names. Each looks at what the caller
// saw, at whether anything was left hanging, at the bound, and at the path's metric.
//
// They run side by side, in namespaces and on nodes of their own, but for those that
// change a cluster for everybody, which run alone. The metric
// has neither, so each waits for at least what it caused; what must never be
// counted is looked at when all are done.
func TestPaths(t *testing.T) {
	before := decided(t)
	var ran atomic.Int32
	all := []map[string]func(*testing.T){pathsOfPeople, pathsOfControllers, pathsOfNodes}
	total := 0
	t.Run("rows", func(t *testing.T) {
		for _, rows := range all {
			total += len(rows)
			for _, name := range slices.Sorted(maps.Keys(rows)) {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					ran.Add(1)
					rows[name](t)
				})
			}
		}
	})
	t.Run("alone", func(t *testing.T) {
		total += len(pathsAlone)
		for _, name := range slices.Sorted(maps.Keys(pathsAlone)) {
			t.Run(name, func(t *testing.T) {
				ran.Add(1)
				pathsAlone[name](t)
			})
		}
	})
	after := decided(t)
	for _, key := range slices.Sorted(maps.Keys(after)) {
		if n := after[key] - before[key]; n > 0 {
			t.Logf("%4d %s", n, key)
		}
	}
	if int(ran.Load()) < total {
		return // a part of them was asked for
	}
	for _, row := range paths.Table {
		allowed, refused := 0, 0
		for key, n := range after {
			path, verdict, _ := split(key)
			switch {
			case path != string(row.Path):
			case verdict == "allowed":
				allowed += n - before[key]
			default:
				refused += n - before[key]
			}
		}
		held := row.Treatment == paths.Enforce || row.Treatment == paths.Defer
		switch {
		case (refused > 0) != held:
			t.Errorf("%s: %d were refused, but the table says %s", row.Path, refused, row.Treatment)
		// A DELETE that the webhook's matchConditions keep away is in no metric.
		case (allowed > 0) != (row.Treatment != paths.Skip):
			t.Errorf("%s: %d were let through, but the table says %s", row.Path, allowed, row.Treatment)
		}
	}
}

// decided counts the answers of all controllers, by "path verdict reason".
func decided(t *testing.T) map[string]int {
	t.Helper()
	counted := map[string]int{}
	for _, c := range mesh.Clusters {
		for _, controller := range c.Controllers {
			scrapeDecisions(t, controller, counted)
		}
	}
	return counted
}

func scrapeDecisions(t *testing.T, controller *sandbox.Controller, into map[string]int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, controller.MetricsURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range families["meshpdb_decisions_total"].GetMetric() {
		labels := map[string]string{}
		for _, label := range metric.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		into[decision(paths.Path(labels["path"]), labels["verdict"], labels["reason"])] += int(metric.GetCounter().GetValue())
	}
}

func decision(path paths.Path, verdict, reason string) string {
	return string(path) + " " + verdict + " " + reason
}

func split(key string) (path, verdict, reason string) {
	path, rest, _ := strings.Cut(key, " ")
	verdict, reason, _ = strings.Cut(rest, " ")
	return path, verdict, reason
}

// wantDecided waits until the metric tells of at least n more decisions of a kind than before.
func wantDecided(t *testing.T, before map[string]int, n int, path paths.Path, verdict, reason string) {
	t.Helper()
	key := decision(path, verdict, reason)
	eventually(t, 10*time.Second, "the metric tells of "+key, func() error {
		if got := decided(t)[key] - before[key]; got < n {
			return fmt.Errorf("%d times, want %d", got, n)
		}
		return nil
	})
}

// exhaust makes a pod of a cluster unready, which is all that maxUnavailable 1
// bears, and returns what makes it ready again.
func exhaust(t *testing.T, w *scenario.Workload, c *scenario.Cluster) (restore func()) {
	t.Helper()
	pod := firstPod(t, w, c)
	annotatePod(t, c, &pod, `""`)
	if err := w.AwaitAllowed(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		annotatePod(t, c, &pod, "null")
	}
}

// wantClaims checks whose disruptions the ledger of a namespace holds as granted.
func wantClaims(t *testing.T, w *scenario.Workload, c *scenario.Cluster, pods ...string) {
	t.Helper()
	eventually(t, 10*time.Second, "the ledger of "+c.Name, func() error {
		claimed := claims(t, w, c)
		if !slices.Equal(slices.Sorted(slices.Values(claimed)), slices.Sorted(slices.Values(pods))) {
			return fmt.Errorf("it holds claims on %v, want %v", claimed, pods)
		}
		return nil
	})
}

func claims(t *testing.T, w *scenario.Workload, c *scenario.Cluster) []string {
	t.Helper()
	var list v1alpha1.DisruptionLedgerList
	if err := c.API.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, l := range list.Items {
		for _, claim := range l.Claims {
			if l.Name == w.Namespace {
				pods = append(pods, claim.Pod)
			}
		}
	}
	return pods
}

// wantGone waits until a pod of this UID is gone.
func wantGone(t *testing.T, c *scenario.Cluster, namespace, name, uid string) {
	t.Helper()
	eventually(t, 90*time.Second, "pod "+name+" goes", func() error {
		list, err := c.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err == nil && len(list.Items) > 0 && string(list.Items[0].UID) == uid {
			err = fmt.Errorf("it is there, %s", list.Items[0].Status.Phase)
		}
		return err
	})
}

// wantStays checks that a pod of this UID is there and does not terminate.
func wantStays(t *testing.T, c *scenario.Cluster, namespace, name, uid string) {
	t.Helper()
	pod, err := c.Client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || string(pod.UID) != uid || pod.DeletionTimestamp != nil {
		t.Errorf("pod %s was disrupted: %v", name, err)
	}
}

// as is a client of any user.
func as(t *testing.T, c *scenario.Cluster, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	config, err := sandboxCluster(t, c.Name).ConfigFor(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubectlFails runs kubectl, which must fail, and returns what it wrote and why it ended.
func kubectlFails(t *testing.T, c *scenario.Cluster, args ...string) string {
	t.Helper()
	out, err := sandboxCluster(t, c.Name).Kubectl(t.Context(), args...)
	if err == nil {
		t.Errorf("kubectl %s succeeded in spite of the budget: %s", strings.Join(args, " "), out)
		return out
	}
	return out + err.Error()
}

func wantWords(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("%q does not say %q", out, word)
		}
	}
}

// wantHeld ends a witness: no more than one pod was ever missing, and every deletion that
// Kubernetes' own controllers got was right when it was allowed.
func wantHeld(t *testing.T, w *scenario.Workload, witness *scenario.Witness, since time.Time, tallies ...*scenario.Tally) {
	t.Helper()
	judge(t, witness, 1)
	tally := scenario.NewTally()
	for _, c := range w.Clusters {
		deletions, err := sandboxCluster(t, c.Name).PodDeletions(w.Namespace, since)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deletions {
			if !strings.HasPrefix(d.User, "system:") || d.Verb != "delete" {
				continue
			}
			request := scenario.Request{Cluster: c.Name, Pod: d.Name, Asked: d.Time, Answered: d.Done, Answer: history.Unknown}
			switch d.Code {
			case http.StatusOK, http.StatusAccepted:
				request.Answer = history.Allowed
			case http.StatusTooManyRequests:
				request.Answer = history.Refused
			case http.StatusNotFound:
				request.Answer = history.Failed
			}
			tally.Add(request)
		}
	}
	wantVerdict(t, history.Held, witness, history.Bound{MaxUnavailable: "1"}, append(tallies, tally)...)
}
