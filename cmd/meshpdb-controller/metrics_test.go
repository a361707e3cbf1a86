package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	librarymetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	_ "sigs.k8s.io/controller-runtime/pkg/webhook/admission" // registers the webhooks' metrics

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/controller"
	"github.com/meshpdb/meshpdb/pkg/hubble"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/redrive"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsDocument = "../../docs/metrics.md"

// metric is one family as its users know it.
type metric struct {
	name, kind, help string
	labels           []string
}

// everyMetric registers what the controller registers. A metric that is missing
// here is found by its name in the source (TestEveryMetricIsDocumented).
func everyMetric(t *testing.T) *prometheus.Registry {
	t.Helper()
	o := defaults()
	o.clusterName = "c1"
	o.webhookCerts, _ = certificates(t)
	registry := prometheus.NewPedanticRegistry()
	recorder := events.NewFakeRecorder(1)
	reporter, err := admission.NewReporter(registry, recorder, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	intents, err := admission.NewIntentReporter(registry, recorder, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redrive.NewReporter(registry, recorder); err != nil {
		t.Fatal(err)
	}
	m, err := mesh.New(mesh.Config{Cluster: o.clusterName, Peers: t.TempDir(), OwnKVStore: "none"})
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.MeshPodDisruptionBudget{Status: v1alpha1.MeshPodDisruptionBudgetStatus{ObservedGeneration: 1, Waiting: []v1alpha1.WaitingDisruption{{}}}}
	b.Namespace, b.Name = "n", "b"
	claims := func(context.Context) ([]claim.Claim, error) { return []claim.Claim{{State: claim.Granted}}, nil }
	budgets := controller.NewCollector(fake.NewClientBuilder().WithScheme(scheme).WithObjects(b).Build(), claims, func() bool { return true }, logr.Discard())
	observer, err := hubble.New(hubble.Config{Cluster: "c1", Controller: "m", Capacity: 1, Queue: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	all := append(ownMetrics(o, func() error { return nil }), mesh.NewCollector(m), budgets, observer)
	if err := registerAll(registry, all...); err != nil {
		t.Fatal(err)
	}
	// Metrics with labels appear with their first sample.
	reporter.Phase(t.Context(), "AppendClaim", time.Millisecond)
	reporter.Answered(admission.Answer{DryRun: true, Pod: &podOfNobody})
	intents.Answered(admission.IntentAnswer{Verdict: admission.IntentAdmitted})
	return registry
}

var described = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)", constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}\}$`)

// families returns what collectors describe, by name; its kind as gathered.
func families(t *testing.T, c prometheus.Collector, gathered []*dto.MetricFamily) map[string]metric {
	t.Helper()
	kinds := map[string]string{}
	for _, f := range gathered {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		c.Describe(descriptions)
	}()
	all := map[string]metric{}
	for d := range descriptions {
		parts := described.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("%s is not as expected", d)
		}
		one := metric{name: parts[1], kind: kinds[parts[1]], help: strings.ReplaceAll(parts[2], `\"`, `"`)}
		for label := range strings.SplitSeq(parts[3], ",") {
			if name, _, constant := strings.Cut(label, "="); constant {
				one.labels = append(one.labels, name)
			}
		}
		for label := range strings.SplitSeq(parts[4], ",") {
			if label != "" {
				one.labels = append(one.labels, label)
			}
		}
		switch {
		case one.kind == "" && strings.HasSuffix(one.name, "_total"):
			one.kind = "counter"
		case one.kind == "":
			// What has no sample here is read from the kvstores when it is scraped.
			one.kind = "gauge"
		}
		all[one.name] = one
	}
	return all
}

// libraries are the metrics of libraries that the rules and the dashboard use.
var libraries = []string{
	"leader_election_master_status", "controller_runtime_webhook_requests_total", "controller_runtime_webhook_requests_in_flight",
	"controller_runtime_webhook_panics_total", "controller_runtime_reconcile_errors_total",
}

// apiServer are those of the API server (k8s.io/apiserver, pkg/admission/metrics).
var apiServer = []metric{
	{"apiserver_admission_webhook_rejection_count", "counter", "Requests that an admission webhook has rejected; error_type is calling_webhook_error where it could not be asked, and no_error where it refused.", []string{"name", "type", "operation", "error_type", "rejection_code"}},
	{"apiserver_admission_webhook_fail_open_count", "counter", "Requests that were admitted because a webhook with failurePolicy Ignore could not be asked.", []string{"name", "type"}},
}

func TestMetricsDocument(t *testing.T) {
	registry := everyMetric(t)
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	library := families(t, librarymetrics.Registry.(prometheus.Collector), nil)
	var used []metric
	for _, name := range libraries {
		one, ok := library[name]
		if !ok {
			t.Errorf("no library has %s any more", name)
		}
		used = append(used, one)
	}
	own := families(t, registry, gathered)
	text := document(slices.SortedFunc(maps.Values(own), func(a, b metric) int { return strings.Compare(a.name, b.name) }), used)
	if *update {
		if err := os.WriteFile(metricsDocument, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(metricsDocument)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != text {
		t.Error("docs/metrics.md is not what the controller exposes: run 'make generate'")
	}
}

func TestMetricsAreLinted(t *testing.T) {
	gathered, err := everyMetric(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(gathered).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if len(gathered) < 20 {
		t.Errorf("only %d metrics were looked at", len(gathered))
	}
	for _, f := range gathered {
		for _, l := range f.GetMetric()[0].GetLabel() {
			if !slices.Contains(slices.Collect(maps.Keys(labels)), l.GetName()) {
				t.Errorf("%s: nobody says what bounds label %s", f.GetName(), l.GetName())
			}
		}
	}
}

// TestEveryMetricIsDocumented finds metrics that nobody registers in everyMetric.
func TestEveryMetricIsDocumented(t *testing.T) {
	text, err := os.ReadFile(metricsDocument)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`Name:\s*"(meshpdb_\w+)"|NewDesc\("(meshpdb_\w+\w)"`)
	found := 0
	for _, root := range []string{"../../pkg", "../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, match := range name.FindAllStringSubmatch(string(source), -1) {
				found++
				if one := match[1] + match[2]; !strings.HasSuffix(one, "_") && !strings.Contains(string(text), "| `"+one+"` |") {
					t.Errorf("%s: %s is not in docs/metrics.md: register it in everyMetric", path, one)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 8 {
		t.Errorf("only %d metrics were found in the source", found)
	}
}

func TestCertificateExpiry(t *testing.T) {
	dir, _ := certificates(t)
	at, err := expiry(filepath.Join(dir, "tls.crt"))
	if left := time.Until(at); err != nil || left < 50*time.Minute || left > time.Hour {
		t.Errorf("%s, %v", left, err)
	}
	for name, content := range map[string]string{"empty": "", "garbage": "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if at, err := expiry(path); err == nil {
			t.Errorf("%s expires at %s", name, at)
		}
	}
	if _, err := expiry(filepath.Join(dir, "none")); err == nil {
		t.Error("what does not exist expires")
	}
}

func table(b *strings.Builder, all []metric) {
	b.WriteString("| metric | type | labels | what it says |\n|---|---|---|---|\n")
	for _, m := range all {
		names := "none"
		if len(m.labels) > 0 {
			names = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, names, m.help)
	}
}
