package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// TestAdmissionOfBudgets: the API server itself refuses what makes no sense,
// and names field and fix.
func TestAdmissionOfBudgets(t *testing.T) {
	c := mesh.clusters[0]
	amount := func(s string) *intstr.IntOrString { v := intstr.Parse(s); return &v }
	for _, tt := range []struct {
		name string
		spec v1alpha1.MeshPodDisruptionBudgetSpec
		want string
	}{
		{"neither bound", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db"}, "exactly one of minAvailable and maxUnavailable must be set"},
		{"both bounds", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MinAvailable: amount("1"), MaxUnavailable: amount("1")}, "exactly one of minAvailable and maxUnavailable must be set"},
		{"101 %", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: amount("101%")}, "maxUnavailable must be a number of pods, 0 or more, or a percentage from 0% to 100%"},
		{"negative", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MinAvailable: amount("-1")}, "minAvailable must be a number of pods, 0 or more, or a percentage from 0% to 100%"},
		{"text", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MinAvailable: amount("half")}, "minAvailable must be a number of pods, 0 or more, or a percentage from 0% to 100%"},
		{"no service", v1alpha1.MeshPodDisruptionBudgetSpec{MinAvailable: amount("1")}, "spec.service"},
		{"bad cluster name", v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MinAvailable: amount("1"), Clusters: []string{"EU_1"}}, "spec.clusters"},
	} {
		b := &v1alpha1.MeshPodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bad"}, Spec: tt.spec}
		err := c.API.Create(t.Context(), b)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if err == nil {
			_ = c.API.Delete(t.Context(), b)
		}
	}
	good := &v1alpha1.MeshPodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "good"}, Spec: v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MinAvailable: amount("100%")}}
	if err := c.API.Create(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.API.Delete(context.WithoutCancel(t.Context()), good) })
	body := []byte(`{"spec":{"service":"other"}}`)
	err := c.API.Patch(t.Context(), good, client.RawPatch(types.MergePatchType, body))
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "service is immutable") {
		t.Errorf("change of service: got %v", err)
	}
}

// TestServiceProblemsAreConditions: an unknown Service and one without a
// selector are said where the budget's user looks.
func TestServiceProblemsAreConditions(t *testing.T) {
	c := mesh.clusters[0]
	w := &scenario.Workload{Clusters: mesh.clusters[:1], Namespace: "bad-service", Name: "db"}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}}
	if err := c.API.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, w) })
	if err := w.Budget(t.Context(), maxUnavailable(1)); err != nil {
		t.Fatal(err)
	}
	wantCondition(t, w, c, v1alpha1.ConditionEnforced, metav1.ConditionFalse, v1alpha1.ReasonServiceNotFound, "service bad-service/db does not exist")
	wantEvent(t, c, w.Namespace, "MeshPodDisruptionBudget", v1alpha1.ReasonServiceNotFound, "does not exist")
	headless := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "db"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
	if err := c.API.Create(t.Context(), headless); err != nil {
		t.Fatal(err)
	}
	wantCondition(t, w, c, v1alpha1.ConditionEnforced, metav1.ConditionFalse, v1alpha1.ReasonServiceHasNoSelector, "has no selector")
}

// TestAnnotationMakesBudget: the short form, its mistakes and its end.
func TestAnnotationMakesBudget(t *testing.T) {
	c := mesh.clusters[0]
	w := stretched(t, "annotated", 1)
	annotate := func(c *scenario.Cluster, key, value string) {
		t.Helper()
		body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
		_, err := c.Client.CoreV1().Services(w.Namespace).Patch(t.Context(), w.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	annotate(c, v1alpha1.MaxUnavailableAnnotation, `"101%"`)
	wantEvent(t, c, w.Namespace, "Service", "InvalidBudget", "a percentage from 0% to 100%")
	for _, c := range mesh.clusters {
		annotate(c, v1alpha1.MaxUnavailableAnnotation, `"1"`)
	}
	if err := w.AwaitBudget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := evict(t, w, c); err != nil {
		t.Errorf("first eviction: %v", err)
	}
	took, err := evict(t, w, mesh.clusters[1])
	wantRefusal(t, err, took, "maxUnavailable 1")
	wantEvent(t, mesh.clusters[1], w.Namespace, "Pod", "DisruptionRefused", "needs 2 (maxUnavailable 1")

	annotate(c, "service.cilium.io/global", `"false"`)
	wantEvent(t, c, w.Namespace, "Service", "ServiceNotGlobal", "service.cilium.io/global")
	for _, c := range mesh.clusters {
		annotate(c, v1alpha1.MaxUnavailableAnnotation, "null")
	}
	eventually(t, 20*time.Second, "the budget goes with its annotation", func() error {
		_, err := w.GetBudget(t.Context(), c)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("budget is still there (%v)", err)
	})
	eventually(t, 20*time.Second, "the namespace loses its label", func() error {
		ns, err := c.Client.CoreV1().Namespaces().Get(t.Context(), w.Namespace, metav1.GetOptions{})
		if err == nil && ns.Labels[v1alpha1.NamespaceLabel] != "" {
			err = fmt.Errorf("labels are %v", ns.Labels)
		}
		return err
	})
}

// TestBadPeerFiles spoils the files by which the controllers of c1 reach c2:
// first one that does not parse, then one with an expired certificate.
func TestBadPeerFiles(t *testing.T) {
	w := budgeted(t, "bad-peer-file", 1, maxUnavailable(1))
	c1 := sandboxCluster(t, "c1")
	expired := t.TempDir()
	cert, key, err := mesh.IssueRemoteCert(expired, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(c1.Controllers[0].PeerDir, "c2"))
	if err != nil {
		t.Fatal(err)
	}
	own := func(dir string, content []byte) []byte {
		return bytes.ReplaceAll(content, []byte(c1.Controllers[0].PeerDir), []byte(dir))
	}
	for _, tt := range []struct {
		name, want string
		content    []byte
	}{
		{"does not parse", "parse etcd client file", []byte("endpoints: [https://c2\n  cert-file")},
		{"names no certificate", "cert-file and key-file are required", []byte("endpoints: [https://c2.mesh.cilium.io:2379]\n")},
		{"expired certificate", "expired at", withCertificate(good, cert, key)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, controller := range c1.Controllers {
				replaceFile(t, filepath.Join(controller.PeerDir, "c2"), own(controller.PeerDir, tt.content))
			}
			eventually(t, 20*time.Second, "a refusal that names c2 and the cause", func() error {
				_, err := evict(t, w, mesh.clusters[0])
				if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "c2") || !strings.Contains(err.Error(), tt.want) {
					return fmt.Errorf("got %v, want %q", err, tt.want)
				}
				return nil
			})
			wantClusterMessage(t, w, mesh.clusters[0], "c2", tt.want)
			// Nothing else stops working: c2 and c3 still decide.
			took, err := evict(t, w, mesh.clusters[2])
			if err != nil && !apierrors.IsTooManyRequests(err) {
				t.Errorf("evict in c3: %v (after %s)", err, took)
			}
			if err != nil && strings.Contains(err.Error(), tt.want) {
				t.Errorf("c3 suffers from c1's file: %v", err)
			}
		})
	}
	for _, controller := range c1.Controllers {
		replaceFile(t, filepath.Join(controller.PeerDir, "c2"), own(controller.PeerDir, good))
	}
	if err := w.AwaitBudget(t.Context()); err != nil {
		t.Errorf("after the file was mended: %v", err)
	}
}

// TestBadRecords writes nonsense and a huge value into c2's kvstore. It harms
// the one budget that it is about, by name.
func TestBadRecords(t *testing.T) {
	harmed := budgeted(t, "bad-records", 1, maxUnavailable(1))
	other := budgeted(t, "good-records", 1, maxUnavailable(1))
	c2 := sandboxCluster(t, "c2")
	admin, err := c2.Instances[0].AdminClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, tt := range []struct {
		name, value, want string
	}{
		{"does not decode", "nonsense", "invalid character"},
		{"huge", strings.Repeat("x", wire.MaxSize+1), "exceed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := wire.Key{Kind: wire.KindPod, Cluster: "c2", Namespace: harmed.Namespace, Budget: harmed.Name, ID: "bad"}.String()
			if _, err := admin.Put(t.Context(), key, tt.value); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, "a refusal that names c2 and the key", func() error {
				_, err := evict(t, harmed, mesh.clusters[0])
				if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "c2") || !strings.Contains(err.Error(), "pods/bad-records/db/bad") || !strings.Contains(err.Error(), tt.want) {
					return fmt.Errorf("got %v, want %q", err, tt.want)
				}
				return nil
			})
			wantClusterMessage(t, harmed, mesh.clusters[0], "c2", tt.want)
			eventually(t, 30*time.Second, "another budget is still granted", func() error {
				_, err := evict(t, other, mesh.clusters[0])
				return err
			})
			if _, err := admin.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := harmed.AwaitBudget(t.Context()); err != nil {
		t.Errorf("after the records were removed: %v", err)
	}
}

// wantClusterMessage waits for a cluster's row in the budget's status.
func wantClusterMessage(t *testing.T, w *scenario.Workload, c *scenario.Cluster, cluster, words string) {
	t.Helper()
	eventually(t, 20*time.Second, "status of cluster "+cluster, func() error {
		b, err := w.GetBudget(t.Context(), c)
		if err != nil {
			return err
		}
		for _, row := range b.Status.Clusters {
			if row.Name == cluster && !row.Reachable && strings.Contains(row.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("clusters are %+v", b.Status.Clusters)
	})
}

// replaceFile replaces a file as a kubelet does: written beside, then renamed.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

// withCertificate points an etcd client file at another certificate.
func withCertificate(content []byte, cert, key string) []byte {
	var lines []string
	for line := range strings.SplitSeq(string(content), "\n") {
		switch {
		case strings.HasPrefix(line, "cert-file:"):
			line = "cert-file: " + cert
		case strings.HasPrefix(line, "key-file:"):
			line = "key-file: " + key
		}
		lines = append(lines, line)
	}
	return []byte(strings.Join(lines, "\n"))
}
