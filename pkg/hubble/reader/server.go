package reader

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

// Server is a Hubble observer, or Relay. Fields mean what hubble observe's flags of these names do.
type Server struct {
	// Address, as host:port; with tls:// before it, TLS is used.
	Address string
	// TLS is used if this is set, or any of the files is.
	TLS bool
	// AllowInsecure does not verify the server's certificate.
	AllowInsecure bool
	// CACertFiles verify the server's certificate; the system's do if there is none.
	CACertFiles []string
	// ClientCertFile and ClientKeyFile are shown to the server.
	ClientCertFile, ClientKeyFile string
	// ServerName is whom the certificate must name, if not the host.
	ServerName string
	// Timeout of all, at which an error is returned; 0 is none.
	Timeout time.Duration
}

// maxMessage is far above a flow's 64 KiB.
const maxMessage = 4 << 20

// Decisions reads the decisions that the server still has, those since a time if it is not zero.
func (s Server) Decisions(ctx context.Context, since time.Time) (Decisions, error) {
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	secure, err := s.credentials()
	if err != nil {
		return Decisions{}, err
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(s.Address, tlsScheme), grpc.WithTransportCredentials(secure), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return Decisions{}, fmt.Errorf("hubble server %s: %w", s.Address, err)
	}
	found, err := decisions(ctx, observerpb.NewObserverClient(conn), since)
	if err != nil {
		err = fmt.Errorf("hubble server %s: %w", s.Address, err)
	}
	return found, errors.Join(err, conn.Close())
}

func decisions(ctx context.Context, client observerpb.ObserverClient, since time.Time) (Decisions, error) {
	var found Decisions
	request := &observerpb.GetFlowsRequest{First: true}
	if !since.IsZero() {
		request.Since = timestamppb.New(since)
	}
	stream, err := client.GetFlows(ctx, request)
	if err != nil {
		return found, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		found.Lost += response.GetLostEvents().GetNumEventsLost()
		if d, ok := flow.Read(response.GetFlow()); ok {
			found.All = append(found.All, d)
		}
	}
}

const tlsScheme = "tls://"

func (s Server) credentials() (credentials.TransportCredentials, error) {
	if !s.TLS && !strings.HasPrefix(s.Address, tlsScheme) && len(s.CACertFiles) == 0 && s.ClientCertFile == "" && s.ClientKeyFile == "" {
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: s.ServerName, InsecureSkipVerify: s.AllowInsecure}
	if len(s.CACertFiles) > 0 {
		config.RootCAs = x509.NewCertPool()
	}
	for _, path := range s.CACertFiles {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("hubble server's authority: %w", err)
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("hubble server's authority: no certificate is in %s", path)
		}
	}
	if s.ClientCertFile != "" || s.ClientKeyFile != "" {
		certificate, err := tls.LoadX509KeyPair(s.ClientCertFile, s.ClientKeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate for hubble: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return credentials.NewTLS(config), nil
}
