package hubble

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshpdb/meshpdb/pkg/hubble/testcert"
)

// issue writes the files of testcert.Issue to a folder, and returns what is in them.
func issue(t *testing.T, name string) (dir string, certificate tls.Certificate, authority *x509.CertPool) {
	t.Helper()
	dir = testcert.Issue(t, name, time.Now())
	certificate, err := tls.LoadX509KeyPair(dir+"/tls.crt", dir+"/tls.key")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(dir + "/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	authority = x509.NewCertPool()
	authority.AppendCertsFromPEM(ca)
	return dir, certificate, authority
}

// TestOnlyKnownClientsAreServed: TLS 1.3, and a certificate of the right authority.
func TestOnlyKnownClientsAreServed(t *testing.T) {
	const name = "meshpdb.c1.hubble-grpc.cilium.io"
	dir, known, authority := issue(t, name)
	_, stranger, _ := issue(t, name)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := newObserver(t, config())
	run(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	files := &TLS{CertFile: dir + "/tls.crt", KeyFile: dir + "/tls.key", ClientCAFiles: []string{dir + "/ca.crt"}}
	go func() { done <- Server{Listener: listener, TLS: files, Log: quiet}.Serve(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for who, c := range map[string]struct {
		config *tls.Config
		served bool
	}{
		"relay":    {&tls.Config{Certificates: []tls.Certificate{known}, MinVersion: tls.VersionTLS13}, true},
		"nobody":   {&tls.Config{MinVersion: tls.VersionTLS13}, false},
		"stranger": {&tls.Config{Certificates: []tls.Certificate{stranger}, MinVersion: tls.VersionTLS13}, false},
		"old":      {&tls.Config{Certificates: []tls.Certificate{known}, MaxVersion: tls.VersionTLS12}, false},
	} {
		c.config.RootCAs, c.config.ServerName = authority, name
		connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(c.config)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err = observerpb.NewObserverClient(connection).GetNodes(ctx, &observerpb.GetNodesRequest{})
		if (err == nil) != c.served {
			t.Errorf("%s: %v", who, err)
		}
		cancel()
		connection.Close()
	}
}

func TestServingNeedsAnAuthority(t *testing.T) {
	dir, _, _ := issue(t, "x")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = Server{Listener: listener, TLS: &TLS{CertFile: dir + "/tls.crt", KeyFile: dir + "/tls.key"}, Log: quiet}.Serve(t.Context(), newObserver(t, config()))
	if err == nil {
		t.Error("everybody would be served")
	}
	if again, err := net.Listen("tcp", listener.Addr().String()); err != nil {
		t.Errorf("its port is not free again: %v", err)
	} else {
		again.Close()
	}
}
