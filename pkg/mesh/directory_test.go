package mesh_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		config mesh.Config
		want   string
	}{
		{mesh.Config{Cluster: "C_1", Peers: "p", OwnKVStore: "o"}, `cluster name "C_1": must consist of…`},
		{mesh.Config{Cluster: "c1", OwnKVStore: "o"}, "the ClusterMesh configuration directory and…"},
		{mesh.Config{Cluster: "c1", Peers: "p"}, "the ClusterMesh configuration directory and…"},
	} {
		if _, err := mesh.New(tt.config); err == nil || !says(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// TestPeerFiles: a peer file that cannot be used says so under the peer's
// name, and harms no other peer.
func TestPeerFiles(t *testing.T) {
	t.Parallel()
	s := startStore(t, "good")
	certs := writeIdentity(t, remote())
	nonsense := filepath.Join(t.TempDir(), "nonsense")
	replaceFile(t, nonsense, []byte("nonsense"))
	missing := filepath.Join(t.TempDir(), "missing")
	other := writeIdentity(t, certificate{name: "remote", by: newCA()})
	expired := writeIdentity(t, certificate{name: "remote", notAfter: time.Now().Add(-time.Hour)})
	early := writeIdentity(t, certificate{name: "remote", notBefore: time.Now().Add(time.Hour)})
	stranger := writeIdentity(t, certificate{name: "stranger"})
	aliases := func(ips ...string) []map[string]any {
		return []map[string]any{{"hostname": "good.mesh.cilium.io", "ips": ips}}
	}
	byName := []string{"https://good.mesh.cilium.io:2379"}
	const reads = "invalid: no meshpdb publishes in its kvstore"

	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"good", etcdFile(t, s.address, certs, nil), reads},
		{"no-endpoints", etcdFile(t, s.address, certs, map[string]any{"endpoints": nil}), "invalid: parse etcd client file …/no-endpoints: endpoints is empty: name at least one https URL"},
		{"no-cert", etcdFile(t, s.address, certs, map[string]any{"cert-file": nil}), "invalid: parse etcd client file …/no-cert: cert-file and key-file are required"},
		{"no-key", etcdFile(t, s.address, certs, map[string]any{"key-file": nil}), "invalid: parse etcd client file …/no-key: cert-file and key-file are required"},
		{"no-ca", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": nil}), "invalid: parse etcd client file …/no-ca: trusted-ca-file is required"},
		{"broken-yaml", []byte("endpoints: ["), "invalid: parse etcd client file …/broken-yaml: …yaml…"},
		{"missing-cert", etcdFile(t, s.address, certs, map[string]any{"cert-file": missing}), "invalid: read certificate of etcd client file …/missing-cert: open …/missing: no such file or directory"},
		{"missing-ca", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": missing}), "invalid: read certificate of etcd client file …/missing-ca: open …/missing: no such file or directory"},
		{"broken-cert", etcdFile(t, s.address, certs, map[string]any{"cert-file": nonsense}), "invalid: load client certificate …/nonsense: …"},
		{"foreign-key", etcdFile(t, s.address, certs, map[string]any{"key-file": filepath.Join(stranger, "tls.key")}), "invalid: load client certificate …: tls: private key does not match public key"},
		{"broken-ca", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": nonsense}), "invalid: read trusted-ca-file …/nonsense: no certificate in it"},
		{"broken-alias", etcdFile(t, s.address, certs, map[string]any{"cilium-host-aliases": aliases("nonsense")}), "invalid: parse etcd client file …/broken-alias: …nonsense…"},

		// These can be used, and are refused or not found by the other side.
		{"expired", etcdFile(t, s.address, expired, nil), "invalid: client certificate …/tls.crt expired at …Z"},
		{"early", etcdFile(t, s.address, early, nil), "invalid: client certificate …/tls.crt is not valid before …Z"},
		{"stranger", etcdFile(t, s.address, stranger, nil), "invalid: its kvstore cannot be read: permission denied"},
		{"other-ca", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": filepath.Join(other, "ca.crt")}), "invalid: its kvstore …"},
		{"unreachable", etcdFile(t, net.JoinHostPort(loopback(), "2379"), certs, nil), "invalid: its kvstore …"},

		{"alias", etcdFile(t, "", certs, map[string]any{"endpoints": byName, "cilium-host-aliases": aliases(s.host)}), reads},
		{"second-alias", etcdFile(t, "", certs, map[string]any{"endpoints": byName, "cilium-host-aliases": aliases(loopback(), s.host)}), reads},
		{"no-alias", etcdFile(t, "", certs, map[string]any{"endpoints": byName}), "invalid: its kvstore …"},
		{"ca-file", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": nil, "ca-file": filepath.Join(certs, "ca.crt")}), reads},
		{"trusted-ca-wins", etcdFile(t, s.address, certs, map[string]any{"ca-file": filepath.Join(other, "ca.crt")}), reads},
		{"untrusted-ca-loses", etcdFile(t, s.address, certs, map[string]any{"trusted-ca-file": filepath.Join(other, "ca.crt"), "ca-file": filepath.Join(certs, "ca.crt")}), "invalid: its kvstore …"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			here := newSite(t, nil)
			here.peer("good", etcdFile(t, s.address, certs, nil))
			here.peer(tt.name, tt.content)
			here.run()
			here.await(reads, here.fresh, "good")
			got := here.fresh
			if tt.want == reads {
				// A peer's role may read what is about the store's own cluster, and about no other name.
				got = func(name string) string { return reachability(here, name) }
			}
			here.await(tt.want, got, tt.name)
		})
	}
}

// reachability is the state of a cluster's standing view.
func reachability(s *site, cluster string) string {
	for _, r := range s.Reachable() {
		if r.Cluster == cluster && r.Err != nil {
			return "invalid: " + r.Err.Error()
		} else if r.Cluster == cluster {
			return "valid"
		}
	}
	return "not there"
}

// TestSnapshotEnds: what does not answer is said so in time.
func TestSnapshotEnds(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	certs := writeIdentity(t, remote())
	here := newSite(t, nil)
	here.peer("silent", etcdFile(t, silent.Addr().String(), certs, nil))
	here.peer("closed", etcdFile(t, net.JoinHostPort(loopback(), "2379"), certs, nil))
	here.run()
	await(t, "[closed silent]", func() string { return fmt.Sprint(here.Peers()) })
	for cluster, want := range map[string]string{
		"silent": "invalid: its kvstore does not answer in time",
		"closed": "invalid: its kvstore …",
		"c3":     "invalid: it is not in this cluster's ClusterMesh configuration",
		"c1":     "invalid: read etcd client file: open …/etcd.yaml: no such file or directory",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		start := time.Now()
		got := text(here.Snapshot(ctx, cluster, shop()))
		cancel()
		if took := time.Since(start); !says(got, want) || took > 3*time.Second {
			t.Errorf("%s: got %s after %s, want %s", cluster, got, took, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := text(here.Snapshot(ctx, "silent", shop())); got != "invalid: the read was cut short" {
		t.Errorf("cancelled: %s", got)
	}
}

func TestPeersComeAndGo(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	twin := startTwin(t, s)
	v := complete()
	v.record(dbPods+"p-2", &wire.Pod{UID: "p-2", Name: "db-2", Unavailable: wire.Terminating})
	twin.fill(v)
	certs := writeIdentity(t, remote())
	file := etcdFile(t, s.address, certs, nil)
	const gone = "invalid: it is not in this cluster's ClusterMesh configuration"

	here := newSite(t, nil)
	// The own cluster's file, certificates and what volumes bring along are no peers.
	for _, name := range []string{"c1", "common-etcd-client.crt", "..data", "Upper"} {
		here.peer(name, file)
	}
	if err := os.Mkdir(filepath.Join(here.peers, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	here.peer("c3", []byte("broken"))
	here.run()
	await(t, "[c3]", func() string { return fmt.Sprint(here.Peers()) })
	here.await(gone, here.fresh, "c2")

	heard := here.times("")
	here.peer("c2", file)
	here.await(theClaim+theDB+theWeb, here.fresh, "c2")
	here.await("[c2 c3]", func(string) string { return fmt.Sprint(here.Peers()) }, "")
	await(t, "told", func() string {
		if here.times("") == heard {
			return "nobody was told of the new peer"
		}
		return "told"
	})
	if got := text(here.Cached("c1", shop())); !strings.HasPrefix(got, "invalid: read etcd client file") {
		t.Errorf("the own cluster was taken for a peer: %s", got)
	}

	here.peer("c2", etcdFile(t, twin.address, certs, nil))
	here.await(dbWith("p-1+ p-2- p-3-"), here.fresh, "c2")
	here.peer("c2", file)
	here.await(theClaim+theDB+theWeb, here.fresh, "c2")

	here.peer("c3", file)
	here.await("invalid: …", here.fresh, "c3")
	here.peer("c3", []byte("broken again"))
	here.await("invalid: parse etcd client file…", here.fresh, "c3")
	if got := here.fresh("c2"); got != theClaim+theDB+theWeb {
		t.Errorf("a broken peer harms another one: %s", got)
	}

	here.peer("c2", []byte("broken"))
	here.await("invalid: parse etcd client file…", here.fresh, "c2")
	here.peer("c2", file)
	here.await(theClaim+theDB+theWeb, here.fresh, "c2")

	if err := os.Remove(filepath.Join(here.peers, "c2")); err != nil {
		t.Fatal(err)
	}
	here.await(gone, here.fresh, "c2")
	here.await("[c3]", func(string) string { return fmt.Sprint(here.Peers()) }, "")
}

// TestCertificateRotation: the file stays as it is, the certificates that it
// names lie elsewhere and are replaced.
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	expired := writeIdentity(t, certificate{name: "remote", notAfter: time.Now().Add(-time.Hour)})
	foreign := writeIdentity(t, certificate{name: "remote", by: newCA()})
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, expired, nil))
	here.run()
	here.await("invalid: client certificate …/tls.crt expired at …", here.cached, "c2")
	rewriteIdentity(t, expired, remote())
	here.await(theClaim+theDB+theWeb, here.fresh, "c2")

	// A certificate of the client is read at each handshake, an authority is not.
	here.peer("c2", etcdFile(t, s.address, foreign, nil))
	here.await("invalid: its kvstore …", here.cached, "c2")
	rewriteIdentity(t, foreign, remote())
	here.await(theClaim+theDB+theWeb, here.fresh, "c2")

	// A connection stands on a name that may not read: it is given up for another certificate.
	stranger := writeIdentity(t, certificate{name: "stranger"})
	here.peer("c2", etcdFile(t, s.address, stranger, nil))
	here.await("invalid: its kvstore cannot be read: permission denied", here.cached, "c2")
	rewriteIdentity(t, stranger, remote())
	here.await(theClaim+theDB+theWeb, here.cached, "c2")

	// One that works is not, even for a certificate that no kvstore would take.
	cert, key := newCA().issue(remote())
	replaceFile(t, filepath.Join(stranger, "tls.crt"), cert)
	replaceFile(t, filepath.Join(stranger, "tls.key"), key)
	here.peer("c3", []byte("broken"))
	await(t, "[c2 c3]", func() string { return fmt.Sprint(here.Peers()) })
	if got := here.fresh("c2"); got != theClaim+theDB+theWeb {
		t.Errorf("a renewed certificate cost a connection that worked: %s", got)
	}
}

// TestCertificatesAndInstances: what people are told of the own side.
func TestCertificatesAndInstances(t *testing.T) {
	t.Parallel()
	own := startStore(t, "c1")
	here := newSite(t, nil)
	end := time.Now().Add(3 * 24 * time.Hour).Truncate(time.Second)
	here.peer("c2", etcdFile(t, own.address, writeIdentity(t, certificate{name: "remote", notAfter: end}), nil))
	here.peer("c3", []byte("broken"))
	here.run()
	await(t, "c2 tls.crt true", func() string {
		text := ""
		for _, c := range here.Certificates() {
			if c.Of != "c1" {
				text += fmt.Sprintf("%s %s %v", c.Of, filepath.Base(c.File), c.Expires.Equal(end) && c.Err == nil)
			}
		}
		return text
	})
}

func TestCollector(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	here := newSite(t, nil)
	expiry := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	dir := writeIdentity(t, certificate{name: "remote", notAfter: expiry})
	here.peer("c2", etcdFile(t, s.address, dir, nil))
	here.peer("c3", []byte("broken"))
	here.run()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(mesh.NewCollector(here.Mesh))
	gauges := func() string {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		up, expires, trips, seen := "", "", []string{}, []string{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				peer, value := m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()
				switch f.GetName() {
				case "meshpdb_peer_reachable":
					up += fmt.Sprintf(" %s=%v", peer, value)
				case "meshpdb_peer_round_trip_seconds":
					if value > 0 {
						trips = append(trips, peer)
					}
				case "meshpdb_peer_last_seen_timestamp_seconds":
					if time.Since(time.UnixMilli(int64(value*1000))) < patience {
						seen = append(seen, peer)
					}
				case "meshpdb_peer_certificate_expiration_timestamp_seconds":
					expires += fmt.Sprintf(" %s in %s", peer, time.UnixMilli(int64(value*1000)).Sub(expiry))
				}
			}
		}
		return fmt.Sprintf("reachable%s; round trip of %v; seen %v; expires%s", up, trips, seen, expires)
	}
	await(t, "reachable c1=0 c2=1 c3=0; round trip of [c2]; seen [c2]; expires c2 in 0s", gauges)

	// Certificates are renewed in place, and removed.
	rewriteIdentity(t, dir, certificate{name: "remote", notAfter: expiry.Add(time.Hour)})
	await(t, "reachable c1=0 c2=1 c3=0; round trip of [c2]; seen [c2]; expires c2 in 1h0m0s", gauges)
}
