package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestClaimDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := claimDir(dir); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claimDir(dir); err != nil || exists(left) {
		t.Errorf("a sandbox's own folder: %v, still there: %t", err, exists(left))
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claimDir(foreign); err == nil || !exists(filepath.Join(foreign, "precious")) {
		t.Errorf("another folder: %v", err)
	}
}

func TestDeployManifests(t *testing.T) {
	objects, err := deployManifests(filepath.Join("testdata", "checkout"))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, o := range objects {
		kinds = append(kinds, o.GetKind())
	}
	want := []string{"CustomResourceDefinition", "ServiceAccount", "Thing", "ValidatingWebhookConfiguration"}
	if !slices.Equal(kinds, want) {
		t.Errorf("kinds are %q, want %q", kinds, want)
	}
	webhook := objects[len(objects)-1]
	if err := redirectWebhooks(webhook, "127.1.2.3:4", []byte("ca")); err != nil {
		t.Fatal(err)
	}
	all, _, err := unstructured.NestedSlice(webhook.Object, "webhooks")
	if err != nil || len(all) != 1 {
		t.Fatalf("%d webhooks, %v", len(all), err)
	}
	config, _ := all[0].(map[string]any)["clientConfig"].(map[string]any)
	if len(config) != 2 || config["url"] != "https://127.1.2.3:4/judge" || config["caBundle"] != "Y2E=" {
		t.Errorf("client configuration is %v", config)
	}
}

func TestFindRoot(t *testing.T) {
	root, err := findRoot()
	if err != nil || !exists(filepath.Join(root, "e2e", "sandbox", "doc.go")) {
		t.Errorf("root is %q, %v", root, err)
	}
	t.Chdir(t.TempDir())
	if root, err := findRoot(); err == nil {
		t.Errorf("found %q outside of any checkout", root)
	}
}
