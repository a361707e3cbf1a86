// Package monitoring_test holds rules and dashboard against the metrics that
// exist, the runbook, and Prometheus itself.
package monitoring_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write prometheusrule.yaml anew")

const runbook = "https://github.com/meshpdb/meshpdb/blob/main/docs/runbook.md#"

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func rules(t *testing.T) ruleFile {
	t.Helper()
	var file ruleFile
	if err := yaml.UnmarshalStrict(dropFor(read(t, "rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// dropFor leaves out the one field that nothing here looks at.
func dropFor(text []byte) []byte {
	return regexp.MustCompile(`(?m)^    for: .*\n`).ReplaceAll(text, nil)
}

// alerts returns the names of all alerts.
func alerts(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
		}
	}
	return names
}

// prometheus runs a program of Prometheus' module, or one that uses it.
func prometheus(t *testing.T, stdin []byte, program string, args ...string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles Prometheus, which takes minutes the first time")
	}
	// Service discovery of clouds is most of promtool, and of no use here.
	run := append([]string{"-C", "../../.tools/prometheus", "run", "-tags", "remove_all_sd", program}, args...)
	cmd := exec.CommandContext(t.Context(), "go", run...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s%s", program, args, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

const promtool = "github.com/prometheus/prometheus/cmd/promtool"

func absolute(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

func TestRulesFireAndStaySilent(t *testing.T) {
	prometheus(t, nil, promtool, "check", "rules", "--lint=all", "--lint-fatal", absolute(t, "rules.yaml"))
	out := prometheus(t, nil, promtool, "test", "rules", absolute(t, "rules_test.yaml"))
	if !bytes.Contains(out, []byte("SUCCESS")) {
		t.Errorf("promtool says %s", out)
	}
}

// TestEachAlertIsTestedBothWays: one case in which it fires, and one in which it does not.
func TestEachAlertIsTestedBothWays(t *testing.T) {
	var file struct {
		Tests []struct {
			Cases []struct {
				Alert    string            `json:"alertname"`
				Expected []json.RawMessage `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, one := range file.Tests {
		for _, c := range one.Cases {
			if len(c.Expected) > 0 {
				fires[c.Alert] = true
			} else {
				silent[c.Alert] = true
			}
		}
	}
	names := alerts(t)
	if len(names) < 10 {
		t.Errorf("only %d alerts", len(names))
	}
	for _, name := range names {
		if !fires[name] || !silent[name] {
			t.Errorf("%s: tested firing %t, silent %t", name, fires[name], silent[name])
		}
	}
}

func TestEachAlertHasARunbook(t *testing.T) {
	var headings []string
	for line := range strings.Lines(string(read(t, "../../docs/runbook.md"))) {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			headings = append(headings, strings.TrimSpace(heading))
		}
	}
	if names := alerts(t); !slices.Equal(headings, names) {
		t.Errorf("docs/runbook.md has\n%q, the rules have\n%q", headings, names)
	}
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			// As GitHub makes anchors of headings of one word.
			if want := runbook + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url is %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
				t.Errorf("%s: %v %v", r.Alert, r.Labels, r.Annotations)
			}
		}
	}
}

// TestOperatorsRulesAreTheSame: prometheusrule.yaml holds what promtool has tested.
func TestOperatorsRulesAreTheSame(t *testing.T) {
	groups := strings.Split(string(read(t, "rules.yaml")), "\ngroups:\n")
	if len(groups) != 2 {
		t.Fatal("rules.yaml does not have one list of groups")
	}
	want := `# Written by 'make generate' from rules.yaml, for the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: meshpdb
  namespace: kube-system
  labels: {app.kubernetes.io/name: meshpdb-controller}
spec:
  groups:
` + regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(groups[1], "  $1")
	if *update {
		if err := os.WriteFile("prometheusrule.yaml", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, "prometheusrule.yaml")
	if string(got) != want {
		t.Error("prometheusrule.yaml is not made of rules.yaml: run 'make generate'")
	}
	var object struct {
		Spec map[string]any `json:"spec"`
	}
	var plain map[string]any
	if err := yaml.Unmarshal(got, &object); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(read(t, "rules.yaml"), &plain); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(object.Spec) != fmt.Sprint(plain) {
		t.Error("the groups of both files differ")
	}
}

// exposed returns the labels of every metric that docs/metrics.md names, whose own test holds it against the code.
func exposed(t *testing.T) map[string][]string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram|untyped) \\| (none|`[^|]*`) \\|")
	all := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(string(read(t, "../../docs/metrics.md")), -1) {
		var labels []string
		if m[3] != "none" {
			labels = strings.Split(strings.ReplaceAll(m[3], "`", ""), ", ")
		}
		if m[2] != "histogram" {
			all[m[1]] = labels
			continue
		}
		all[m[1]+"_sum"], all[m[1]+"_count"], all[m[1]+"_bucket"] = labels, labels, append([]string{"le"}, labels...)
	}
	return all
}

// queries returns the expressions of the rules and of the dashboard.
func queries(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			all = append(all, r.Expr)
		}
	}
	var dashboard struct {
		Panels []struct {
			ID      int    `json:"id"`
			Type    string `json:"type"`
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct {
				Name  string          `json:"name"`
				Query json.RawMessage `json:"query"`
			} `json:"list"`
		} `json:"templating"`
	}
	if err := json.Unmarshal(read(t, "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range dashboard.Panels {
		if seen[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d (%q) is a second one, or has no title or no query", p.ID, p.Title)
		}
		seen[p.ID] = true
		for _, target := range p.Targets {
			// Grafana puts a duration in its place.
			all = append(all, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	values := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range dashboard.Templating.List {
		var query struct {
			Query string `json:"query"`
		}
		if json.Unmarshal(v.Query, &query) != nil {
			continue // the data source
		}
		m := values.FindStringSubmatch(query.Query)
		if m == nil {
			t.Errorf("variable %s asks for %q", v.Name, query.Query)
			continue
		}
		all = append(all, fmt.Sprintf("count by (%s) (%s)", m[2], m[1]))
	}
	return all
}

// TestQueriesUseWhatExists: every metric and label that is asked for.
func TestQueriesUseWhatExists(t *testing.T) {
	all := queries(t)
	stdin, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var uses []struct {
		Expression string
		Metrics    map[string][]string
		Grouping   []string
	}
	if err := json.Unmarshal(prometheus(t, stdin, "./selectors"), &uses); err != nil {
		t.Fatal(err)
	}
	if len(uses) != len(all) || len(all) < 35 {
		t.Fatalf("%d of %d queries were parsed", len(uses), len(all))
	}
	known := exposed(t)
	for _, u := range uses {
		labels := map[string]bool{}
		for metric, selects := range u.Metrics {
			has, ok := known[metric]
			if !ok {
				t.Errorf("%s: there is no metric %q", u.Expression, metric)
			}
			for _, label := range has {
				labels[label] = true
			}
			for _, label := range selects {
				if !slices.Contains(has, label) {
					t.Errorf("%s: %s has no label %s", u.Expression, metric, label)
				}
			}
		}
		for _, label := range u.Grouping {
			if !labels[label] {
				t.Errorf("%s: none of %v has label %s", u.Expression, slices.Sorted(maps.Keys(u.Metrics)), label)
			}
		}
	}
}
