package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/ledger"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// TestEveryInstanceIsWritten: clustermesh-apiserver replicas are independent
// etcds. A second one is brought into service, gets every claim, and is
// forgotten once it is gone; the bound holds throughout.
func TestEveryInstanceIsWritten(t *testing.T) {
	w := budgeted(t, "two-instances", 3, maxUnavailable(1))
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c1 := sandboxCluster(t, "c1")
	second, err := c1.AddInstance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removed := false
	t.Cleanup(func() {
		if !removed {
			_ = c1.RemoveInstance(context.WithoutCancel(t.Context()), second)
		}
	})
	wantRegistered(t, 2)
	eventually(t, 30*time.Second, "the second instance shows the budget", func() error {
		if n := countKeys(t, second, "pods/"+w.Namespace+"/"); n != 3 {
			return fmt.Errorf("it shows %d pods", n)
		}
		return nil
	})
	eventually(t, 30*time.Second, "an eviction in c1", func() error {
		_, err := evict(t, w, mesh.clusters[0])
		return err
	})
	for _, instance := range c1.Instances {
		if n := countKeys(t, instance, "claims/"+w.Namespace+"/"); n != 1 {
			t.Errorf("instance %s shows %d claims right after the grant, want 1", instance.Name, n)
		}
	}
	took, err := evict(t, w, mesh.clusters[1])
	wantRefusal(t, err, took, "c1")

	if err := c1.RemoveInstance(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	removed = true
	wantRegistered(t, 1)
	eventually(t, time.Minute, "grants flow with one instance again", func() error {
		_, err := evict(t, w, mesh.clusters[0])
		return err
	})
	judge(t, witness, 1)
}

// wantRegistered waits until c1's registry lists so many instances.
func wantRegistered(t *testing.T, n int) {
	t.Helper()
	// A killed instance cannot be asked to take its marker off, whose lease must run out first.
	eventually(t, time.Minute, fmt.Sprintf("%d registered instances", n), func() error {
		c, err := mesh.clusters[0].Client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), ledger.RegistryName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := strings.Fields(c.Data["instances"]); len(got) != n {
			return fmt.Errorf("registry is %v", got)
		}
		return nil
	})
}

// countKeys counts what an instance of c1 shows under a prefix of ours.
func countKeys(t *testing.T, instance *sandbox.Instance, prefix string) int64 {
	t.Helper()
	admin, err := instance.AdminClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	response, err := admin.Get(t.Context(), wire.ClusterPrefix("c1")+prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return response.Count
}
