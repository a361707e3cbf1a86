package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// permission is one verb on one resource.
type permission struct{ group, resource, verb string }

func (p permission) String() string { return fmt.Sprintf("%s %s.%s", p.verb, p.resource, p.group) }

// covers reports whether p permits another: "*" stands for any group, and for any resource before a subresource.
func (p permission) covers(used permission) bool {
	resource := p.resource == used.resource
	if sub, ok := strings.CutPrefix(p.resource, "*/"); ok {
		_, of, _ := strings.Cut(used.resource, "/")
		resource = of == sub
	}
	return resource && p.verb == used.verb && (p.group == "*" || p.group == used.group)
}

// granted reads what deploy/rbac.yaml lets the controller do, in all namespaces and in its own.
func granted(t *testing.T) (everywhere, own map[permission]bool) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "deploy", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	everywhere, own = map[permission]bool{}, map[permission]bool{}
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		into := map[string]map[permission]bool{"ClusterRole": everywhere, "Role": own}[role.Kind]
		if into == nil || role.Name != "meshpdb-controller" {
			continue
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						into[permission{group, resource, verb}] = true
					}
				}
			}
		}
	}
	if len(everywhere) < 20 || len(own) < 8 {
		t.Fatalf("%d and %d permissions were read", len(everywhere), len(own))
	}
	return everywhere, own
}

// forbidden returns the requests of controllers that no role permits, since the mesh was started.
func (m *testMesh) forbidden() ([]string, error) {
	refused := map[string]bool{}
	for _, c := range m.Clusters {
		events, err := c.Audit(time.Time{})
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.Denied {
				refused[fmt.Sprintf("%s: %s in %q", c.Name, used(e), e.Namespace)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(refused)), nil
}

func used(e sandbox.AuditEvent) permission {
	resource := e.Resource
	if e.Subresource != "" {
		resource += "/" + e.Subresource
	}
	return permission{e.Group, resource, e.Verb}
}

// unasked are permissions that this test does not bring about, and where they are needed.
var unasked = map[permission]string{
	{"", "services", "get"}:                        "read when an instance has left clustermesh-apiserver's Service; the sandbox's are no pods, and loopback addresses cannot be endpoints: controller.TestInstanceGone",
	{"", "pods/eviction", "create"}:                "asked for when a taint eviction was lost: TestLostTaintEvictionsAreCompleted",
	{"apps", "replicasets/status", "patch"}:        "patched when its controller backs off: TestControllersInBackOffAreTold",
	{"apps", "statefulsets/status", "patch"}:       "as for ReplicaSets: redrive.TestOnAServer",
	{"apps", "daemonsets/status", "patch"}:         "as for ReplicaSets: redrive.TestOnAServer",
	{"", "replicationcontrollers/status", "patch"}: "as for ReplicaSets: redrive.TestOnAServer",
	{"", "nodes", "get"}:                           "read when a taint evicts a pod: docs/paths.md",
	{"", "events", "patch"}:                        "written when leader election tells the same twice",
	{"apps", "daemonsets", "get"}:                  "read when the DaemonSet controller deletes a pod: docs/paths.md",
}

// streamed is the watch by which informers list where the API server streams lists, as these do; where it cannot, they list.
func streamed(p permission) permission {
	if p.verb == "list" {
		p.verb = "watch"
	}
	return p
}

// TestPermissions: every verb that deploy/rbac.yaml grants is used, and nothing is refused for want of one. The
// controllers of all tests run under that ServiceAccount, so this test only has to bring about what is rare.
func TestPermissions(t *testing.T) {
	c1 := mesh.clusters[0]
	useRareOptions(t)
	w := &scenario.Workload{Clusters: mesh.clusters[:1], Namespace: "permissions", Name: "db", Replicas: 2}
	if err := w.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, w) })
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	annotate := func(value string) {
		t.Helper()
		body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1alpha1.MaxUnavailableAnnotation, value)
		if _, err := c1.Client.CoreV1().Services(w.Namespace).Patch(t.Context(), w.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	annotate(`"2"`)
	if err := w.AwaitBudget(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := evict(t, w, c1); err != nil {
			t.Fatal(err)
		}
	}
	annotate(`"0"`)
	eventually(t, 30*time.Second, "a series of refusals", func() error {
		pod := firstPod(t, w, c1)
		for range 3 {
			if err := c1.Evict(t.Context(), w.Namespace, pod.Name); !apierrors.IsTooManyRequests(err) {
				return fmt.Errorf("got %v", err)
			}
		}
		return nil
	})
	ownedByAnotherKind(t, c1, w)
	wantUsed(t, time.Minute, permission{"example.com", "databases/scale", "get"})
	annotate("null")
	eventually(t, 30*time.Second, "the budget goes", func() error {
		if _, err := w.GetBudget(t.Context(), c1); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
	if err := w.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}

	everywhere, own := granted(t)
	eventually(t, 2*time.Minute, "every permission is used", func() error {
		var unused []string
		for p := range everywhere {
			if unasked[p] == "" && !isUsed(t, streamed(p), "") {
				unused = append(unused, p.String())
			}
		}
		for p := range own {
			if unasked[p] == "" && !isUsed(t, streamed(p), "kube-system") {
				unused = append(unused, p.String()+" in kube-system")
			}
		}
		if len(unused) > 0 {
			slices.Sort(unused)
			return fmt.Errorf("these are not: %s", strings.Join(unused, ", "))
		}
		return nil
	})
	if refused, err := mesh.forbidden(); err != nil || len(refused) > 0 {
		t.Errorf("refused: %q, %v", refused, err)
	}
}

// isUsed looks for a permission among all requests of the controllers since the mesh was started.
func isUsed(t *testing.T, p permission, namespace string) bool {
	t.Helper()
	for _, c := range mesh.Clusters {
		events, err := c.Audit(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(events, func(e sandbox.AuditEvent) bool {
			return !e.Denied && p.covers(used(e)) && (namespace == "" || e.Namespace == namespace)
		}) {
			return true
		}
	}
	return false
}

func wantUsed(t *testing.T, timeout time.Duration, p permission) {
	t.Helper()
	eventually(t, timeout, p.String(), func() error {
		if !isUsed(t, p, "") {
			return errors.New("not asked for")
		}
		return nil
	})
}

// useRareOptions runs the controllers for a while as deploy/controller.yaml does, where the sandbox differs: the
// instances are found by a Service, which has none here, and metrics are read by whom the API server lets.
func useRareOptions(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c1 := mesh.clusters[0]
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "clustermesh-apiserver"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 2379}}},
	}
	if err := c1.API.Create(ctx, service); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c1.API.Delete(context.WithoutCancel(ctx), service) })
	if err := mesh.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	back := false
	t.Cleanup(func() {
		if !back {
			useControllers(t, mesh.binary)
		}
	})
	// The fake Service above names no instance, so they wait for their grace before they are ready.
	if err := mesh.StartControllers(ctx, mesh.binary, 1, "--clustermesh-service=clustermesh-apiserver", "--metrics-secure=true"); err != nil {
		t.Fatal(err)
	}
	wantMetrics(t, c1)
	wantUsed(t, time.Minute, permission{"discovery.k8s.io", "endpointslices", "watch"})
	useControllers(t, mesh.binary)
	back = true
}

// ownedByAnotherKind adds a pod of the workload whose owner is of a kind that only its scale subresource describes.
func ownedByAnotherKind(t *testing.T, c *scenario.Cluster, w *scenario.Workload) {
	t.Helper()
	definitions, err := apiextensions.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	anything := true
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "databases.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "databases", Singular: "database", Kind: "Database", ListKind: "DatabaseList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &anything}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"}},
			}},
		},
	}
	if _, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(context.WithoutCancel(t.Context()), definition.Name, metav1.DeleteOptions{})
	})
	databases, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	var database *unstructured.Unstructured
	eventually(t, 30*time.Second, "a database", func() error {
		database = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Database", "metadata": map[string]any{"name": "db"}, "spec": map[string]any{"replicas": int64(1)},
		}}
		var err error
		database, err = databases.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "databases"}).Namespace(w.Namespace).Create(t.Context(), database, metav1.CreateOptions{})
		return err
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "db-0", Labels: map[string]string{"app": w.Name}, OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(database, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Database"}),
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "db", Image: "registry.k8s.io/pause:3.10"}}},
	}
	if err := c.API.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}
