package plugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-helpers/auth/rbac/validation"
	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/checkup"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// installed is what an installation with nothing wrong consists of, and the extra objects.
func installed(t *testing.T, cluster string, more ...runtime.Object) []runtime.Object {
	t.Helper()
	unread := ""
	for _, o := range more {
		b, ok := o.(*v1alpha1.MeshPodDisruptionBudget)
		for i := range 3 {
			if ok && !b.Status.Clusters[i].Reachable {
				unread = b.Status.Clusters[i].Name
			}
		}
	}
	shipped, err := checkup.ReadShipped()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noon.Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for i := range shipped.Validating.Webhooks {
		shipped.Validating.Webhooks[i].ClientConfig.CABundle = bundle
	}
	for i := range shipped.Mutating.Webhooks {
		shipped.Mutating.Webhooks[i].ClientConfig.CABundle = bundle
	}
	peers := []roster.Store{}
	for _, name := range []string{"c1", "c2", "c3"} {
		if name != cluster {
			store := roster.Store{Name: name, Since: noon.Add(-time.Hour), RoundTrip: 1.5}
			if name == unread {
				store = roster.Store{Name: name, Since: noon.Add(-90 * time.Second), Message: "its kvstore is unreachable: connection refused"}
			}
			peers = append(peers, store)
		}
	}
	data := map[string]string{}
	for i, name := range []string{"meshpdb-controller-1", "meshpdb-controller-2"} {
		data, err = roster.Put(data, roster.Replica{
			Name: name, Cluster: cluster, Version: "v0.1.0", Written: noon.Add(-4 * time.Second), Leader: i == 0, Peers: peers,
			Instances:    []roster.Store{{Name: "10.0.0.1:2379", Since: noon.Add(-time.Hour), RoundTrip: 0.4}},
			Certificates: []roster.Certificate{{Use: "webhook", File: "/tls.crt", Expires: noon.Add(60 * 24 * time.Hour)}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "kube-system", Name: controllerName}
	return append(more,
		&shipped.Validating, &shipped.Mutating, &shipped.ClusterRole, &shipped.Role,
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: controllerName}, RoleRef: rbacv1.RoleRef{Name: controllerName}, Subjects: []rbacv1.Subject{account}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: controllerName}, RoleRef: rbacv1.RoleRef{Name: controllerName}, Subjects: []rbacv1.Subject{account}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: roster.ConfigMap}, Data: data},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "prod", Labels: map[string]string{v1alpha1.NamespaceLabel: "true"}}},
	)
}

// TestDocumentedRole: docs/kubectl.md has a role with which the doctor may do what it does.
func TestDocumentedRole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "kubectl.md"))
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	for _, part := range strings.Split(string(text), "```yaml\n") {
		if manifest, _, _ := strings.Cut(part, "```"); strings.Contains(manifest, "name: meshpdb-doctor") {
			if err := yaml.UnmarshalStrict([]byte(manifest), &role); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := newFleet(t)
	f.order = []string{"c1"}
	c := f.add(t, "c1", installed(t, "c1", budgetOf(), serviceOf("db"), podOf("db-0", "db", "n1"))...)
	if _, stderr, code := f.call(t, "doctor"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	done := append(c.Kube.(*kubefake.Clientset).Actions(), c.Dynamic.(*dynamicfake.FakeDynamicClient).Actions()...)
	done = append(done, clienttesting.NewCreateSubresourceAction(corev1.SchemeGroupVersion.WithResource("pods"), "db-0", "eviction", "prod", nil))
	for _, a := range done {
		resource := a.GetResource().Resource
		if a.GetSubresource() != "" {
			resource += "/" + a.GetSubresource()
		}
		need := rbacv1.PolicyRule{APIGroups: []string{a.GetResource().Group}, Resources: []string{resource}, Verbs: []string{a.GetVerb()}}
		if covered, _ := validation.Covers(role.Rules, []rbacv1.PolicyRule{need}); !covered {
			t.Errorf("the role does not let it %s %s", a.GetVerb(), resource)
		}
	}
	if len(done) < 10 {
		t.Errorf("it did only %v", done)
	}
}

func TestDoctor(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	f.add(t, "c1", installed(t, "c1", budgetOf(), serviceOf("db"), podOf("db-0", "db", "n1"))...)
	f.add(t, "c2", installed(t, "c2", budgetOf(), serviceOf("db"))...)
	f.answers["prod/db-0"] = denied("no")
	f.answers["prod/meshpdb-doctor"] = apierrors.NewNotFound(corev1.Resource("pods"), "meshpdb-doctor")
	f.wantGolden(t, "doctor", "doctor", "doctor --quiet --contexts c1,c2", "doctor --contexts c9")
	if len(f.evictions) != 3 || f.evictions[0] != "c1 prod/db-0" || f.evictions[2] != "c2 prod/meshpdb-doctor" {
		t.Errorf("asked for %v", f.evictions)
	}

	f.add(t, "c1")
	f.wantGolden(t, "doctor-not-installed", "doctor")

	c := f.add(t, "c1", installed(t, "c1", budgetOf(cutOff), serviceOf("db"), podOf("db-0", "db", "n1"))...)
	f.answers["prod/db-0"] = apierrors.NewInternalError(wrap(`failed calling webhook "preconditions.meshpdb.io": failed to call webhook: connect: connection refused`))
	kube := c.Kube.(*kubefake.Clientset)
	validating, err := kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(t.Context(), "meshpdb", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ignore := admissionv1.Ignore
	validating.Webhooks[0].FailurePolicy = &ignore
	if _, err := kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Update(t.Context(), validating, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	kube.PrependReactor("get", "clusterroles", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(rbacv1.Resource("clusterroles"), controllerName, wrap("you may not"))
	})
	f.wantGolden(t, "doctor-ill", "doctor", "doctor -q -o jsonpath={.errors}")
	for _, a := range kube.Actions() {
		if verb := a.GetVerb(); verb != "get" && verb != "list" && a.GetResource().Resource != "validatingwebhookconfigurations" {
			t.Errorf("the doctor does %s %s", verb, a.GetResource().Resource)
		}
	}
}
