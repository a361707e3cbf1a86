package mesh

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"sigs.k8s.io/yaml"
)

// maxMessage bounds what one answer of a kvstore may make us allocate, in bytes.
const maxMessage = 16 << 20

// clientFile is an etcd client file as Cilium's Secrets hold one per peer: the
// fields of etcd's own format (client/v3/yaml) plus Cilium's host aliases
// (Cilium pkg/clustermesh/common/config.go).
type clientFile struct {
	Endpoints   []string    `json:"endpoints"`
	CertFile    string      `json:"cert-file"`
	KeyFile     string      `json:"key-file"`
	TrustedCA   string      `json:"trusted-ca-file"`
	CAFile      string      `json:"ca-file"`
	HostAliases []hostAlias `json:"cilium-host-aliases"`

	path string
	// hash covers what a client is made of: the file and the authorities it trusts; credentials all but the
	// file's other fields. pair covers the client's own certificate and key, which are read at each handshake.
	hash, credentials, pair [sha256.Size]byte
}

type hostAlias struct {
	Hostname string       `json:"hostname"`
	IPs      []netip.Addr `json:"ips"`
}

// readClientFile parses and checks a file. The hashes cover the certificates
// it names as well, so that a rotation is seen.
func readClientFile(path string) (*clientFile, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("read etcd client file: %w", err)
	}
	f := &clientFile{path: path}
	if err := yaml.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("parse etcd client file %s: %w", path, err)
	}
	if f.TrustedCA == "" {
		f.TrustedCA = f.CAFile
	}
	switch {
	case len(f.Endpoints) == 0:
		return nil, fmt.Errorf("parse etcd client file %s: endpoints is empty: name at least one https URL", path)
	case f.CertFile == "" || f.KeyFile == "":
		return nil, fmt.Errorf("parse etcd client file %s: cert-file and key-file are required", path)
	case f.TrustedCA == "":
		return nil, fmt.Errorf("parse etcd client file %s: trusted-ca-file is required", path)
	}
	var contents [3][]byte
	for i, name := range []string{f.CertFile, f.KeyFile, f.TrustedCA} {
		if contents[i], err = readSmall(name); err != nil {
			return nil, fmt.Errorf("read certificate of etcd client file %s: %w", path, err)
		}
	}
	cert, key, authorities := contents[0], contents[1], contents[2]
	f.pair = sha256.Sum256(slices.Concat(cert, []byte{0}, key))
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %d\n", f.CertFile, f.KeyFile, f.TrustedCA, len(authorities))
	sum.Write(authorities)
	sum.Sum(f.credentials[:0])
	sum.Write(data)
	sum.Sum(f.hash[:0])
	return f, nil
}

// maxClientFile is as large as a Secret can be, in bytes.
const maxClientFile = 1 << 20

func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// What a file names may be no file: to read a device would never end.
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxClientFile+1))
	if err == nil && len(data) > maxClientFile {
		err = fmt.Errorf("%s exceeds %d bytes", path, maxClientFile)
	}
	return data, err
}

// replaceEndpoints puts discovered instances in the place of the file's endpoints.
func (f *clientFile) replaceEndpoints(addresses []string) error {
	if len(addresses) == 0 {
		return errors.New("no instance of the own ClusterMesh was found: its Service has no endpoints")
	}
	f.Endpoints = nil
	sum := sha256.New()
	sum.Write(f.hash[:])
	for _, a := range addresses {
		f.Endpoints = append(f.Endpoints, "https://"+a)
		sum.Write([]byte(a + "\n"))
	}
	sum.Sum(f.hash[:0])
	return nil
}

// certificate reads the client's certificate as it is now: it is rotated in place.
func (f *clientFile) certificate() (*x509.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load client certificate %s: %w", f.CertFile, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("parse client certificate %s: %w", f.CertFile, err)
	}
	return leaf, nil
}

// certificateError says when the client certificate is the reason that a
// kvstore cannot be read: etcd itself only reports a failed handshake.
func (f *clientFile) certificateError(now time.Time) error {
	leaf, err := f.certificate()
	if err != nil {
		return err
	}
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("client certificate %s expired at %s", f.CertFile, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("client certificate %s is not valid before %s", f.CertFile, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// dial makes a client for the given endpoints of the file, which can write
// under the given prefix and nowhere else. It does not wait for a connection.
// reset makes it connect anew. No other place makes clients.
func (f *clientFile) dial(endpoints []string, serverName, writable string) (client *clientv3.Client, reset func(), err error) {
	pem, err := readSmall(f.TrustedCA)
	if err != nil {
		return nil, nil, fmt.Errorf("read trusted-ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("read trusted-ca-file %s: no certificate in it", f.TrustedCA)
	}
	cert, key := f.CertFile, f.KeyFile
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		return nil, nil, fmt.Errorf("load client certificate %s: %w", cert, err)
	}
	open := &sockets{}
	options := []grpc.DialOption{
		grpc.WithContextDialer(f.dialer(open)),
		// gRPC's default of two minutes would outlast most outages.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			// What takes longer to dial could not be read in time either.
			MinConnectTimeout: probeTimeout,
		}),
	}
	options = append(options, screen{writable: writable}.options()...)
	if serverName != "" {
		// The name in tls.Config does not suffice: the etcd client names each endpoint's host to gRPC, which prefers that.
		options = append(options, grpc.WithAuthority(serverName))
	}
	client, err = clientv3.New(clientv3.Config{
		Endpoints: endpoints,
		// Never Sync: Cilium's etcds advertise localhost.
		AutoSyncInterval:     0,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallRecvMsgSize:   maxMessage,
		Logger:               zap.NewNop(),
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    pool,
			// Read at each handshake: certificates are rotated in place.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(cert, key)
				if err != nil {
					return nil, fmt.Errorf("load client certificate: %w", err)
				}
				return &pair, nil
			},
		},
		DialOptions: options,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make etcd client of %s: %w", f.path, err)
	}
	return client, open.reset, nil
}

// dialer resolves the file's host aliases, one address after the other, and
// leaves all other names to the system.
func (f *clientFile) dialer(open *sockets) func(context.Context, string) (net.Conn, error) {
	aliases := map[string][]netip.Addr{}
	for _, a := range f.HostAliases {
		aliases[a.Hostname] = a.IPs
	}
	return func(ctx context.Context, target string) (net.Conn, error) {
		var d net.Dialer
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			return nil, fmt.Errorf("split address %q: %w", target, err)
		}
		ips, ok := aliases[host]
		addresses := []string{target}
		if ok {
			addresses = nil
			for _, ip := range ips {
				addresses = append(addresses, net.JoinHostPort(ip.String(), port))
			}
		}
		if len(addresses) == 0 {
			return nil, fmt.Errorf("dial %q: its host alias names no address", target)
		}
		var failures []error
		for _, address := range addresses {
			conn, err := d.DialContext(ctx, "tcp", address)
			if err == nil {
				return open.add(conn), nil
			}
			failures = append(failures, err)
		}
		return nil, errors.Join(failures...)
	}
}
