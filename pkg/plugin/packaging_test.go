package plugin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/yaml"
)

// TestKrewManifest fills the template in as a release does.
func TestKrewManifest(t *testing.T) {
	path := filepath.Join("..", "..", "deploy", "krew", "meshpdb.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	filled, err := template.New("krew").Funcs(template.FuncMap{
		"addURIAndSha": func(url, tag string) string {
			return fmt.Sprintf("uri: %s\n    sha256: \"%064d\"", strings.ReplaceAll(url, "{{ .TagName }}", tag), 1)
		},
	}).Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := filled.Execute(&out, map[string]string{"TagName": "v1.2.3"}); err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version, ShortDescription, Homepage string
			Platforms                           []struct {
				Selector struct{ MatchLabels map[string]string }
				URI      string
				SHA256   string
				Bin      string
			}
		}
	}
	if err := yaml.Unmarshal(out.Bytes(), &manifest); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if manifest.Kind != "Plugin" || manifest.Metadata.Name != "meshpdb" || manifest.Spec.Version != "v1.2.3" || len(manifest.Spec.ShortDescription) > 50 || len(manifest.Spec.Platforms) != 4 {
		t.Errorf("read %+v", manifest)
	}
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range manifest.Spec.Platforms {
		os, arch := p.Selector.MatchLabels["os"], p.Selector.MatchLabels["arch"]
		if p.URI != fmt.Sprintf("https://github.com/meshpdb/meshpdb/releases/download/v1.2.3/kubectl-meshpdb_%s_%s.tar.gz", os, arch) || len(p.SHA256) != 64 || p.Bin != "kubectl-meshpdb" {
			t.Errorf("platform %+v", p)
		}
		if !strings.Contains(string(makefile), os+"/"+arch) {
			t.Errorf("make plugin builds no %s/%s", os, arch)
		}
	}
}

// TestCompletion: names come from the API server, everything else from here.
func TestCompletion(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	f.add(t, "c1", budgetOf())
	for call, want := range map[string][]string{
		"":                   {"doctor", "explain", "forget", "history", "plan", "resume", "status", "suspend", "top"},
		"plan ":              {"drain"},
		"forget ":            {"c1", "c2", "c3"},
		"status -o ":         {"json", "yaml", "jsonpath"},
		"doctor --contexts ": nil,
	} {
		out, _, code := f.call(t, append([]string{"__complete"}, strings.Split(call, " ")...)...)
		if code != 0 {
			t.Errorf("%q: exit code %d", call, code)
		}
		for _, w := range want {
			if !strings.Contains("\n"+out, "\n"+w) {
				t.Errorf("%q is not completed by %q: %q", call, w, out)
			}
		}
	}
}

// TestHelp: every command says what it is for, how it is called and what it ends with.
func TestHelp(t *testing.T) {
	for _, name := range []string{"status", "explain", "plan drain", "top", "history", "doctor", "suspend", "resume", "forget"} {
		out, _, code := newFleet(t, "c1").call(t, append(strings.Fields(name), "--help")...)
		if code != 0 || !strings.Contains(out, "kubectl meshpdb "+name) || !strings.Contains(out, "Examples:\n  # ") || strings.Contains(out, "kubectl-meshpdb") {
			t.Errorf("%s --help prints\n%s", name, out)
		}
	}
}

// TestDocumentedOutput: what README and docs/kubectl.md show of status and explain is what comes.
func TestDocumentedOutput(t *testing.T) {
	var golden strings.Builder
	for _, name := range []string{"status.txt", "explain.txt"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		golden.Write(text)
	}
	for _, path := range []string{"README.md", "docs/kubectl.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", path))
		if err != nil {
			t.Fatal(err)
		}
		shown := 0
		for _, command := range []string{"status db", "explain pod/db-0"} {
			_, rest, _ := strings.Cut(string(text), "$ kubectl meshpdb "+command+" -n prod\n")
			output, _, _ := strings.Cut(rest, "```")
			if output != "" && strings.Contains(golden.String(), "$ kubectl meshpdb "+command+"\n"+output) {
				shown++
			}
		}
		if shown != 2 {
			t.Errorf("%s: %d of 2 outputs are as they come", path, shown)
		}
	}
}
