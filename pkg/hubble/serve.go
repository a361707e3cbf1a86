package hubble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/cilium/cilium/pkg/crypto/certloader"
	"github.com/cilium/cilium/pkg/hubble/server"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"google.golang.org/grpc"
)

// TLS names the files of a server's certificate. They are read anew when they change.
type TLS struct {
	CertFile, KeyFile string
	// ClientCAFiles sign the certificates that clients must show, as Relay does.
	ClientCAFiles []string
}

// Server serves the Hubble API.
type Server struct {
	Listener net.Listener
	// TLS 1.3 with clients' certificates; nil serves everybody in plain text.
	TLS *TLS
	Log *slog.Logger
}

// Serve serves an observer until ctx ends.
func (s Server) Serve(ctx context.Context, o *Observer) error {
	options := []serveroption.Option{
		func(to *serveroption.Options) error { to.Listener = s.Listener; return nil },
		serveroption.WithHealthService(),
		serveroption.WithObserverService(o),
	}
	if s.TLS == nil {
		options = append(options, serveroption.WithInsecure())
	} else {
		config, err := s.TLS.watch(s.Log)
		if err != nil {
			return errors.Join(err, s.Listener.Close())
		}
		defer config.Stop()
		options = append(options, serveroption.WithServerTLS(config))
	}
	srv, err := server.NewServer(s.Log, options...)
	if err != nil {
		return errors.Join(fmt.Errorf("serve hubble: %w", err), s.Listener.Close())
	}
	stopped := context.AfterFunc(ctx, srv.Stop)
	defer stopped()
	if err := srv.Serve(); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve hubble: %w", err)
	}
	return nil
}

// watch requires clients' certificates: decisions name users, namespaces and pods.
func (t *TLS) watch(log *slog.Logger) (*certloader.WatchedServerConfig, error) {
	if len(t.ClientCAFiles) == 0 {
		return nil, errors.New("serve hubble: no authority of clients' certificates is given")
	}
	config, err := certloader.NewWatchedServerConfig(log, t.ClientCAFiles, t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("serve hubble: %w", err)
	}
	return config, nil
}
