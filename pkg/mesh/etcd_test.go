package mesh_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	etcdinit "github.com/cilium/cilium/pkg/kvstore/etcdinit"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	// These tests wait more than they work. The command line still decides.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// etcdProgram builds the etcd that the checkout's tools name. The go command
// keeps the program, so only the first test on a machine waits for it.
var etcdProgram = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-n", "go.etcd.io/etcd/server/v3")
	cmd.Dir = filepath.Join("..", "..", ".tools", "kubernetes")
	// The flags of e2e/sandbox, to share what it has compiled.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-trimpath -buildvcs=false '-ldflags=-s -w'")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
})

// starts runs functions on one thread that never ends: the kernel kills our
// children when the thread that made them ends (Pdeathsig), which must not be
// before the tests end.
var starts = sync.OnceValue(func() chan<- func() {
	requests := make(chan func())
	go func() {
		runtime.LockOSThread()
		for run := range requests {
			run()
		}
	}()
	return requests
})

// store is a real etcd, run and initialised as a clustermesh-apiserver pod
// does: TLS, client certificates, Cilium's users and roles.
type store struct {
	t       *testing.T
	cluster string
	// address is host:port. It stays the same over restarts.
	address string
	// admin is a client with the root role.
	admin *clientv3.Client

	host, token, dir, certs string
	exited                  chan struct{}
	cmd                     *exec.Cmd
}

// startStore starts the etcd of a cluster. Each has a loopback address of its
// own, so that its ports are free, also after a restart.
func startStore(t *testing.T, cluster string) *store {
	t.Helper()
	host := loopback()
	s := &store{t: t, cluster: cluster, host: host, address: net.JoinHostPort(host, "2379"), token: host}
	s.initialise()
	return s
}

// startTwin starts an etcd that calls itself as s does: to a client, s after
// its data was lost.
func startTwin(t *testing.T, s *store) *store {
	t.Helper()
	host := loopback()
	twin := &store{t: t, cluster: s.cluster, host: host, address: net.JoinHostPort(host, "2379"), token: s.token}
	twin.initialise()
	return twin
}

func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 16+rand.IntN(200), rand.IntN(250), 1+rand.IntN(250))
}

func (s *store) initialise() {
	s.t.Helper()
	s.dir = s.t.TempDir()
	s.certs = writeIdentity(s.t, certificate{name: "admin-" + s.cluster})
	server := writeIdentity(s.t, certificate{name: "clustermesh-apiserver.cilium.io", hosts: []string{"clustermesh-apiserver.cilium.io", "*.mesh.cilium.io", "127.0.0.1", s.host}})
	if err := os.Rename(server, filepath.Join(s.dir, "server")); err != nil {
		s.t.Fatal(err)
	}
	s.start()
	s.t.Cleanup(s.kill)
}

// start brings the etcd up, empty.
func (s *store) start() {
	s.t.Helper()
	program, err := etcdProgram()
	if err != nil {
		s.t.Fatal(err)
	}
	data := filepath.Join(s.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		s.t.Fatal(err)
	}
	server := filepath.Join(s.dir, "server")
	var log bytes.Buffer
	cmd := exec.Command(program,
		"--data-dir="+data,
		"--name=clustermesh-apiserver",
		"--client-cert-auth",
		"--trusted-ca-file="+filepath.Join(server, "ca.crt"),
		"--cert-file="+filepath.Join(server, "tls.crt"),
		"--key-file="+filepath.Join(server, "tls.key"),
		"--listen-client-urls=https://"+s.address,
		"--advertise-client-urls=https://localhost:2379", // of no use to anyone, and what Cilium advertises
		"--listen-peer-urls=http://"+net.JoinHostPort(s.host, "2380"),
		"--initial-advertise-peer-urls=http://localhost:2380",
		"--initial-cluster=clustermesh-apiserver=http://localhost:2380",
		"--initial-cluster-token="+s.token,
		"--max-request-bytes=33554432",
		"--enable-grpc-gateway=false",
		"--unsafe-no-fsync",
		"--log-level=error",
	)
	cmd.Env = []string{}
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	starts() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		s.t.Fatalf("start etcd: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	await(s.t, "connected", func() string {
		select {
		case <-exited:
			s.t.Fatalf("etcd of %s has ended: %s", s.cluster, log.String())
		default:
		}
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return "connected"
	})
	s.admin = dialAdmin(s.t, s.address, s.certs)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := etcdinit.ClusterMeshEtcdInit(ctx, slog.New(slog.DiscardHandler), s.admin, s.cluster); err != nil {
		s.t.Fatalf("initialise etcd of %s: %v", s.cluster, err)
	}
}

// kill ends the etcd as a crash would.
func (s *store) kill() {
	s.admin.Close()
	_ = s.cmd.Process.Kill()
	<-s.exited
}

func dialAdmin(t *testing.T, address, certs string) *clientv3.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(certs, "tls.crt"), filepath.Join(certs, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{address}, Logger: zap.NewNop(), MaxCallSendMsgSize: 32 << 20,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authority().pool()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// put writes a value as the cluster itself does.
func (s *store) put(key, value string) {
	s.t.Helper()
	if _, err := s.admin.Put(s.t.Context(), key, value); err != nil {
		s.t.Fatalf("put %s: %v", key, err)
	}
}

func (s *store) delete(key string) {
	s.t.Helper()
	if _, err := s.admin.Delete(s.t.Context(), key); err != nil {
		s.t.Fatalf("delete %s: %v", key, err)
	}
}

// get returns a value, "" if there is none.
func (s *store) get(key string) string {
	s.t.Helper()
	response, err := s.admin.Get(s.t.Context(), key)
	if err != nil {
		s.t.Fatalf("get %s: %v", key, err)
	}
	if len(response.Kvs) == 0 {
		return ""
	}
	return string(response.Kvs[0].Value)
}

func (s *store) revision() int64 {
	s.t.Helper()
	response, err := s.admin.Get(s.t.Context(), "x")
	if err != nil {
		s.t.Fatal(err)
	}
	return response.Header.Revision
}

// fill makes the store hold exactly these values.
func (s *store) fill(v values) {
	s.t.Helper()
	if _, err := s.admin.Delete(s.t.Context(), "cilium/", clientv3.WithPrefix()); err != nil {
		s.t.Fatal(err)
	}
	for key, value := range v {
		s.put(key, value)
	}
}

// forwarder is an address that leads to one of several etcds, as a Service does.
type forwarder struct {
	address string

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	// silent connections are those whose other end has forgotten them.
	silent map[net.Conn]bool
}

func startForwarder(t *testing.T, host, target string) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{address: listener.Addr().String(), target: target, conns: map[net.Conn]bool{}, silent: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.forward(conn)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		f.lead("")
	})
	return f
}

// lead ends all connections and leads later ones to target; "" to nowhere.
func (f *forwarder) lead(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = target
	for conn := range f.conns {
		conn.Close()
	}
}

// silence forgets all connections without telling anybody: they stay open and
// nothing comes out of them any more. Later ones are led on.
func (f *forwarder) silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		f.silent[conn] = true
		_ = conn.SetReadDeadline(time.Now())
	}
}

func (f *forwarder) forward(conn net.Conn) {
	defer conn.Close()
	f.mu.Lock()
	target := f.target
	f.mu.Unlock()
	if target == "" {
		return
	}
	other, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer other.Close()
	f.mu.Lock()
	f.conns[conn] = true
	moved := f.target != target
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
	}()
	if moved {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = other.(*net.TCPConn).ReadFrom(conn)
		other.Close()
		_ = conn.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, conn)
	}()
	_, _ = conn.(*net.TCPConn).ReadFrom(other)
	f.mu.Lock()
	silent := f.silent[conn]
	f.mu.Unlock()
	if silent {
		// Only the other end can end it.
		<-gone
	}
}

// patience is how long anything may take on a busy machine.
const patience = 30 * time.Second

// await polls until got says want; in want, … stands for any text.
func await(t *testing.T, want string, got func() string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		said := got()
		if says(said, want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("got  %s\nwant %s", said, want)
		}
	}
}

// says compares texts; in want, … stands for any text.
func says(got, want string) bool {
	parts := strings.Split(want, "…")
	if len(parts) == 1 {
		return got == want
	}
	if !strings.HasPrefix(got, parts[0]) {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(got, p)
		if i < 0 {
			return false
		}
		got = got[i+len(p):]
	}
	return strings.HasSuffix(got, parts[len(parts)-1])
}
