package mesh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/pkg/mesh"
)

// site is a running Mesh of cluster c1 and its configuration files.
type site struct {
	*mesh.Mesh
	t *testing.T
	// peers is the ClusterMesh configuration directory, own the file of the own kvstore.
	peers, own string

	mu sync.Mutex
	// told are the namespaces that Config.Changed heard of.
	told map[string]int
	// hear, if set before run, is called at every change, by whoever made it.
	hear func()
}

func newSite(t *testing.T, discovered *mesh.Discovery) *site {
	t.Helper()
	s := &site{t: t, peers: t.TempDir(), own: filepath.Join(t.TempDir(), "etcd.yaml"), told: map[string]int{}}
	m, err := mesh.New(mesh.Config{
		Cluster: "c1", Peers: s.peers, OwnKVStore: s.own, Discovered: discovered,
		Changed: func(subject string) {
			namespace, _, _ := strings.Cut(subject, "/")
			s.mu.Lock()
			s.told[namespace]++
			s.mu.Unlock()
			if s.hear != nil {
				s.hear()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Mesh = m
	return s
}

// run follows the configuration until the test ends, and checks that it ends then.
func (s *site) run() *site {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			s.t.Error("run goes on after its context ended")
		}
	})
	return s
}

func (s *site) times(namespace string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[namespace]
}

// peer writes a peer's file.
func (s *site) peer(name string, content []byte) {
	s.t.Helper()
	replaceFile(s.t, filepath.Join(s.peers, name), content)
}

// fresh and cached return a cluster's state as text.
func (s *site) fresh(cluster string) string { return s.within(patience/10, cluster) }

// within is fresh for answers that are large or must not be asked for twice.
func (s *site) within(timeout time.Duration, cluster string) string {
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	return text(s.Snapshot(ctx, cluster, shop()))
}

func (s *site) cached(cluster string) string { return text(s.Cached(cluster, shop())) }

func (s *site) await(want string, got func(cluster string) string, cluster string) {
	s.t.Helper()
	await(s.t, want, func() string { return got(cluster) })
}

// replaceFile puts a file in the place of another in one step.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	fresh := filepath.Join(t.TempDir(), "new")
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

// etcdFile returns the client file for an address with an identity. changes
// replaces fields; nil leaves a field out.
func etcdFile(t *testing.T, address, certs string, changes map[string]any) []byte {
	t.Helper()
	fields := map[string]any{
		"endpoints":       []string{"https://" + address},
		"trusted-ca-file": filepath.Join(certs, "ca.crt"),
		"cert-file":       filepath.Join(certs, "tls.crt"),
		"key-file":        filepath.Join(certs, "tls.key"),
	}
	for field, value := range changes {
		if fields[field] = value; value == nil {
			delete(fields, field)
		}
	}
	content, err := yaml.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// certificate is what a certificate is issued for. Its times default to now.
type certificate struct {
	name                string
	hosts               []string
	notBefore, notAfter time.Time
	by                  *ca
}

// remote is the identity by which peers read.
func remote() certificate { return certificate{name: "remote"} }

// ca is a certificate authority.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authority is the one that all clusters of these tests share.
var authority = sync.OnceValue(newCA)

func newCA() *ca {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Cilium CA"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &ca{cert: must(x509.ParseCertificate(der)), key: key}
}

func (a *ca) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue returns a certificate and its key as PEM.
func (a *ca) issue(c certificate) (cert, key []byte) {
	if c.notBefore.IsZero() {
		c.notBefore = time.Now().Add(-24 * time.Hour)
	}
	if c.notAfter.IsZero() {
		c.notAfter = time.Now().Add(24 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))), Subject: pkix.Name{CommonName: c.name},
		NotBefore: c.notBefore, NotAfter: c.notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range c.hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key))
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))})
	return cert, key
}

// writeIdentity writes ca.crt, tls.crt and tls.key to a new folder.
func writeIdentity(t *testing.T, c certificate) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "certs")
	if err != nil {
		t.Fatal(err)
	}
	rewriteIdentity(t, dir, c)
	return dir
}

func rewriteIdentity(t *testing.T, dir string, c certificate) {
	t.Helper()
	by := c.by
	if by == nil {
		by = authority()
	}
	cert, key := by.issue(c)
	for name, content := range map[string][]byte{"ca.crt": by.pem(), "tls.crt": cert, "tls.key": key} {
		replaceFile(t, filepath.Join(dir, name), content)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
