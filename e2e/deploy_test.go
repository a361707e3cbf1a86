package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// TestManifestsAreAccepted: what deploy/ makes with Hubble's component is taken by the API server, every field of it.
func TestManifestsAreAccepted(t *testing.T) {
	c := sandboxCluster(t, "c1")
	dir := filepath.Join(t.TempDir(), "deploy")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "deploy"))); err != nil {
		t.Fatal(err)
	}
	uncomment(t, filepath.Join(dir, "kustomization.yaml"), "# components: [hubble]", "components: [hubble]")
	rendered, err := c.Kubectl(t.Context(), "kustomize", dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "rendered.yaml")
	if err := os.WriteFile(file, withoutForeign(t, rendered), 0o600); err != nil {
		t.Fatal(err)
	}
	// Over what the sandbox has applied in its own way.
	out, err := c.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-o=name", "-f", file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"customresourcedefinition.apiextensions.k8s.io/meshpoddisruptionbudgets.meshpdb.io", "clusterrole.rbac.authorization.k8s.io/meshpdb-controller",
		"deployment.apps/meshpdb-controller", "deployment.apps/meshpdb-hubble-peers", "deployment.apps/meshpdb-hubble-relay",
		"service/meshpdb-hubble", "service/meshpdb-hubble-peers", "service/meshpdb-webhook",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("%s is not applied, but\n%s", want, out)
		}
	}
	if !strings.Contains(rendered, "--hubble-listen-address=:4244") {
		t.Error("the controller does not serve Hubble with the component")
	}
}

func uncomment(t *testing.T, file, old, fresh string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(old)) {
		t.Fatalf("%s has no line %q", file, old)
	}
	if err := os.WriteFile(file, bytes.Replace(content, []byte(old), []byte(fresh), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withoutForeign leaves out the kinds of operators that the sandbox does not run, and the webhooks, which it has
// applied with addresses of its own.
func withoutForeign(t *testing.T, manifests string) []byte {
	t.Helper()
	var kept bytes.Buffer
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		var o unstructured.Unstructured
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return kept.Bytes()
		}
		if err != nil {
			t.Fatal(err)
		}
		if group := o.GroupVersionKind().Group; group == "cert-manager.io" || group == "admissionregistration.k8s.io" {
			continue
		}
		document, err := sigsyaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		kept.WriteString("---\n")
		kept.Write(document)
	}
}
