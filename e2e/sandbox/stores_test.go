package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStores: kvstores without clusters can be written as their cluster does
// and read as a peer does, several peers in one of them.
func TestStores(t *testing.T) {
	m, err := NewStores(t.Context(), Options{Clusters: 2, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	second := m.Clusters[1].Instances[0]
	admin, err := second.AdminClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Put(t.Context(), "cilium/state/x", "y"); err != nil {
		t.Fatal(err)
	}
	for _, peer := range []string{"p1", "p2"} {
		if err := second.WritePeerFile(m.Clusters[0].PeerDir, peer); err != nil {
			t.Fatal(err)
		}
		client, err := m.Clusters[0].PeerClient(t.Context(), peer)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		response, err := client.Get(t.Context(), "cilium/state/x")
		if err != nil || len(response.Kvs) != 1 || string(response.Kvs[0].Value) != "y" {
			t.Errorf("%s reads %+v, %v", peer, response, err)
		}
	}
	if !exists(filepath.Join(m.Clusters[0].KVStoreDir, "etcd.yaml")) {
		t.Error("the own kvstore's client file is missing")
	}
}
