package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// certificates writes a serving certificate for localhost, and returns its folder and who trusts it.
func certificates(t *testing.T) (dir string, trust *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "meshpdb-webhook"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir, trust = t.TempDir(), x509.NewCertPool()
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return dir, trust
}

// reviewer is an API server that knows two tokens, of which one may get /metrics.
func reviewer(t *testing.T) *rest.Config {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
			var review authenticationv1.TokenReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if review.Spec.Token == "broken" {
				http.Error(w, "broken", http.StatusInternalServerError)
				return
			}
			review.Status.Authenticated = review.Spec.Token == "prometheus" || review.Spec.Token == "stranger"
			review.Status.User.Username = review.Spec.Token
			_ = json.NewEncoder(w).Encode(review)
		case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
			var review authorizationv1.SubjectAccessReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			asked := review.Spec.NonResourceAttributes
			review.Status.Allowed = review.Spec.User == "prometheus" && asked != nil && asked.Path == "/metrics" && asked.Verb == "get"
			_ = json.NewEncoder(w).Encode(review)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
}

// serve runs a server until the test ends.
func serve(t *testing.T, start func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// wantModern shakes hands as TLS 1.3 does, and as 1.2 does, which must fail for that reason.
func wantModern(t *testing.T, address string, trust *x509.CertPool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13})
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("TLS 1.3: %v", err)
		}
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12})
	if err == nil {
		conn.Close()
		t.Fatalf("%s speaks TLS 1.2", address)
	}
	if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2 was refused with %v", err)
	}
	if plain, err := net.Dial("tcp", address); err == nil {
		defer plain.Close()
		_, _ = plain.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
		answer, _ := io.ReadAll(io.LimitReader(plain, 100))
		if strings.Contains(string(answer), " 200 ") {
			t.Errorf("%s answers without TLS", address)
		}
	}
}

func TestTheWebhookSpeaksTLS13(t *testing.T) {
	o := defaults()
	var trust *x509.CertPool
	o.webhookCerts, trust = certificates(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.webhook = free.Addr().String()
	free.Close()
	options, err := o.webhookOptions()
	if err != nil || net.JoinHostPort(options.Host, strconv.Itoa(options.Port)) != o.webhook {
		t.Fatalf("%+v, %v", options, err)
	}
	serve(t, webhook.NewServer(options).Start)
	wantModern(t, o.webhook, trust)
}

func TestMetricsAreForWhoMayReadThem(t *testing.T) {
	o := defaults()
	var trust *x509.CertPool
	o.webhookCerts, trust = certificates(t)
	o.metrics = "127.0.0.1:0"
	server, err := metricsserver.NewServer(o.metricsOptions(), reviewer(t), http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, server.Start)
	var address string
	for deadline := time.Now().Add(20 * time.Second); address == "" && time.Now().Before(deadline); {
		address = server.(interface{ GetBindAddr() string }).GetBindAddr()
	}
	wantModern(t, address, trust)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}}
	defer client.CloseIdleConnections()
	for token, want := range map[string]int{"prometheus": 200, "stranger": 403, "nobody": 401, "": 401, "broken": 500} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != want || strings.Contains(string(body), "go_goroutines") != (want == 200) {
			t.Errorf("%q: %s, want %d", token, response.Status, want)
		}
	}
}
