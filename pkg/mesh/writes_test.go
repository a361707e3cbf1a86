package mesh_test

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
)

// TestWritesOfClients goes around all of this package's functions, to the clients themselves, against a real etcd in
// which their certificate is root: what they may write does not depend on who uses them, or how.
func TestWritesOfClients(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	own, ctx := ownSite(t, s).Own(), t.Context()
	raw := must(mesh.ClientOf(own, s.address))
	for _, key := range []string{"theirs", "cilium/state/meshpdb/v1/c2/marker", "cilium/cluster-config/c1"} {
		s.put(key, "theirs")
	}
	const mine = ownPrefix + "budgets/shop/db"
	if _, err := raw.Put(ctx, mine, "mine"); err != nil {
		t.Fatal(err)
	}
	before := s.revision()
	lease := must(s.admin.Grant(ctx, 600))
	for name, call := range map[string]func(context.Context) error{
		"put": func(ctx context.Context) error { _, err := raw.Put(ctx, "theirs", "x"); return err },
		"put beside": func(ctx context.Context) error {
			_, err := raw.Put(ctx, "cilium/state/meshpdb/v1/c10/x", "x")
			return err
		},
		"put, with lease": func(ctx context.Context) error {
			_, err := raw.Put(ctx, "theirs", "x", clientv3.WithLease(lease.ID))
			return err
		},
		"delete": func(ctx context.Context) error { _, err := raw.Delete(ctx, "theirs"); return err },
		"delete prefix": func(ctx context.Context) error {
			_, err := raw.Delete(ctx, "cilium/", clientv3.WithPrefix())
			return err
		},
		"delete all":       func(ctx context.Context) error { _, err := raw.Delete(ctx, "", clientv3.WithPrefix()); return err },
		"delete from ours": func(ctx context.Context) error { _, err := raw.Delete(ctx, mine, clientv3.WithFromKey()); return err },
		"do":               func(ctx context.Context) error { _, err := raw.Do(ctx, clientv3.OpPut("theirs", "x")); return err },
		"transaction": func(ctx context.Context) error {
			_, err := raw.Txn(ctx).Then(clientv3.OpPut(mine, "x"), clientv3.OpDelete("theirs")).Commit()
			return err
		},
		"transaction, else": func(ctx context.Context) error {
			_, err := raw.Txn(ctx).If(clientv3.Compare(clientv3.Version(mine), "=", 0)).Else(clientv3.OpPut("theirs", "x")).Commit()
			return err
		},
		"nested transaction": func(ctx context.Context) error {
			_, err := raw.Txn(ctx).Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("theirs", "x")}, nil)).Commit()
			return err
		},
		"end of a lease": func(ctx context.Context) error { _, err := raw.Revoke(ctx, lease.ID); return err },
		"compaction":     func(ctx context.Context) error { _, err := raw.Compact(ctx, before); return err },
		"user":           func(ctx context.Context) error { _, err := raw.UserAdd(ctx, "eve", "eve"); return err },
		"role":           func(ctx context.Context) error { _, err := raw.UserGrantRole(ctx, "remote", "root"); return err },
		"authentication": func(ctx context.Context) error { _, err := raw.AuthDisable(ctx); return err },
		"member": func(ctx context.Context) error {
			_, err := raw.MemberAdd(ctx, []string{"http://127.0.0.1:1"})
			return err
		},
		"defragment": func(ctx context.Context) error { _, err := raw.Defragment(ctx, "https://"+s.address); return err },
		"snapshot": func(ctx context.Context) error {
			body, err := raw.Snapshot(ctx)
			if err == nil {
				_, err = body.Read(make([]byte, 1))
			}
			return err
		},
	} {
		within, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := call(within)
		cancel()
		if err == nil || !strings.Contains(err.Error(), `outside "`+ownPrefix+`"`) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if now := s.revision(); now != before {
		t.Errorf("the store was written: revision %d, then %d", before, now)
	}
	if _, err := raw.Delete(ctx, mine); err != nil {
		t.Errorf("delete of our own: %v", err)
	}
	// Names that try to leave the prefix stay in it, as etcd's keys are no paths.
	if err := own.WriteClaim(ctx, s.address, claim.Claim{ID: "x", UID: "u", Namespace: "../../../../../services", State: claim.Pending, Ticket: 1}); err != nil {
		t.Fatal(err)
	}
	if got := s.get(ownPrefix + "claims/../../../../../services/x"); got == "" {
		t.Error("the claim is elsewhere")
	}
}

// TestPeersAreReadOnly: even with an admin certificate in a peer's file, nothing is written there.
func TestPeersAreReadOnly(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, s.certs, nil))
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	raw := must(mesh.ClientOfPeer(here.Mesh, "c2"))
	before := s.revision()
	for _, key := range []string{"theirs", "cilium/state/meshpdb/v1/c2/marker", ownMarker} {
		if _, err := raw.Put(t.Context(), key, "x"); err == nil || !strings.Contains(err.Error(), "this store is for reading only") {
			t.Errorf("%s: got %v", key, err)
		}
		if _, err := raw.Delete(t.Context(), key); err == nil || !strings.Contains(err.Error(), "this store is for reading only") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if _, err := raw.Grant(t.Context(), 15); err == nil {
		t.Error("a lease was granted by a peer")
	}
	if _, err := raw.Get(t.Context(), "cilium/", clientv3.WithPrefix()); err != nil || s.revision() != before {
		t.Errorf("read: %v; revision %d, then %d", err, before, s.revision())
	}
}
