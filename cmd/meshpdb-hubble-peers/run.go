package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/cilium/cilium/pkg/crypto/certloader"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshpdb/meshpdb/pkg/hubble/peers"
)

type options struct {
	cluster   string
	listen    string
	health    string
	agents    string
	observers string
	interval  time.Duration
	plain     bool
	certFile  string
	keyFile   string
	caFiles   string
}

func defaults() options {
	const dir = "/var/lib/meshpdb/hubble/"
	return options{
		listen: ":4244", health: ":4222", interval: 5 * time.Second,
		observers: "meshpdb-hubble.kube-system.svc:4244",
		certFile:  dir + "tls.crt", keyFile: dir + "tls.key", caFiles: dir + "ca.crt",
	}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.cluster, "cluster-name", o.cluster, "Name of the cluster, as in Cilium's configuration")
	f.StringVar(&o.listen, "listen-address", o.listen, "Address to serve the peer service on")
	f.StringVar(&o.health, "health-listen-address", o.health, "Address to serve gRPC health on, in plain text")
	f.StringVar(&o.agents, "peer-service", o.agents, "Address of Cilium's own peer service, whose peers are passed on; empty: meshpdb's observers alone")
	f.StringVar(&o.observers, "observers", o.observers, "Where meshpdb's observers are, separated by commas: [cluster=]host:port. A host may have several addresses")
	f.DurationVar(&o.interval, "interval", o.interval, "How often observers are looked up")
	f.BoolVar(&o.plain, "disable-tls", o.plain, "Serve and dial in plain text, as Cilium's hubble.tls.enabled=false does")
	f.StringVar(&o.certFile, "tls-cert-file", o.certFile, "Certificate to serve and to dial with, good for *.<cluster>.hubble-grpc.cilium.io")
	f.StringVar(&o.keyFile, "tls-key-file", o.keyFile, "Its key")
	f.StringVar(&o.caFiles, "tls-ca-files", o.caFiles, "Authorities of all others' certificates, separated by commas")
}

// security makes the credentials of both directions, from files that may change.
type security struct {
	server *certloader.WatchedServerConfig
	client *certloader.WatchedClientConfig
}

func (o *options) security(log *slog.Logger) (*security, error) {
	if o.plain {
		return nil, nil
	}
	authorities := strings.Split(o.caFiles, ",")
	server, err := certloader.NewWatchedServerConfig(log, authorities, o.certFile, o.keyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	client, err := certloader.NewWatchedClientConfig(log, authorities, o.certFile, o.keyFile)
	if err != nil {
		server.Stop()
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return &security{server, client}, nil
}

func (s *security) stop() {
	if s != nil {
		s.server.Stop()
		s.client.Stop()
	}
}

func (s *security) serving() credentials.TransportCredentials {
	if s == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.server.ServerConfig(&tls.Config{MinVersion: tls.VersionTLS13}))
}

func (s *security) dialling(serverName string) credentials.TransportCredentials {
	if s == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.client.ClientConfig(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName}))
}

// peerNode stands for the node in the name that Relay expects of a peer service.
const peerNode = "hubble-peer"

func run(ctx context.Context, o options, log *slog.Logger) error {
	if o.cluster == "" {
		return errors.New("--cluster-name is required: the cluster's name in Cilium's configuration")
	}
	places, err := peers.ParsePlaces(o.observers, o.cluster)
	if err != nil {
		return fmt.Errorf("--observers: %w", err)
	}
	secured, err := o.security(log)
	if err != nil {
		return err
	}
	defer secured.stop()
	table := &peers.Table{}
	group, ctx := errgroup.WithContext(ctx)
	observers := &peers.Observers{
		Places: places, Credentials: secured.dialling, TLS: secured != nil, Table: table, Log: log,
		Interval: o.interval, Resolve: net.DefaultResolver.LookupHost,
	}
	group.Go(func() error { return observers.Run(ctx) })
	if o.agents != "" {
		agents := &peers.Agents{
			Target: o.agents, Table: table, Log: log, Retry: 2 * time.Second, Settle: 10 * time.Second,
			Credentials: func() credentials.TransportCredentials {
				return secured.dialling(peers.ServerName(peerNode, o.cluster))
			},
		}
		group.Go(func() error { return agents.Run(ctx) })
	}
	service := grpc.NewServer(grpc.Creds(secured.serving()))
	peerpb.RegisterPeerServer(service, peers.Service{Table: table})
	group.Go(func() error { return serve(ctx, service, o.listen) })
	alive := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(alive, health.NewServer())
	group.Go(func() error { return serve(ctx, alive, o.health) })
	return group.Wait()
}

func serve(ctx context.Context, s *grpc.Server, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	// Streams of Notify end only when they are cut.
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", address, err)
	}
	return nil
}
