package peers

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Agents follows Cilium's own peer service.
type Agents struct {
	// Target of the peer service, as gRPC names it: hubble-peer.kube-system.svc.cluster.local.:443.
	Target string
	// Credentials of one connection; certificates may have changed since the one before.
	Credentials func() credentials.TransportCredentials
	Table       *Table
	Log         *slog.Logger
	// Retry is the pause before a lost service is dialled again.
	Retry time.Duration
	// Settle is how long a service may take to announce all it knows. What it has
	// not announced again by then is gone.
	Settle time.Duration
}

// Run follows until ctx ends. While the service is away, its peers stay.
func (a *Agents) Run(ctx context.Context) error {
	known := map[string]Peer{}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		err := a.follow(ctx, &known)
		if ctx.Err() == nil {
			a.Log.Warn("Cilium's peer service is lost; its peers stay", "target", a.Target, "peers", len(known), "error", err)
		}
		pause.Reset(a.Retry)
	}
}

// follow keeps the table in step until the stream ends. known are the peers of this and, until it has settled, of the stream before.
func (a *Agents) follow(ctx context.Context, known *map[string]Peer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	connection, err := grpc.NewClient(a.Target, grpc.WithTransportCredentials(a.Credentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 10 * time.Second}))
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer connection.Close()
	stream, err := peerpb.NewPeerClient(connection).Notify(ctx, &peerpb.NotifyRequest{})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	received, failed := make(chan *peerpb.ChangeNotification), make(chan error, 1)
	go func() {
		for {
			n, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case received <- n:
			case <-ctx.Done():
				return
			}
		}
	}()
	announced := map[string]Peer{}
	settled := time.NewTimer(a.Settle)
	defer settled.Stop()
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("receive: %w", err)
		case n := <-received:
			apply(n, announced, *known)
		case <-settled.C:
			*known = announced
		}
		a.Table.SetAgents(maps.Clone(*known))
	}
}

func apply(n *peerpb.ChangeNotification, tables ...map[string]Peer) {
	for _, t := range tables {
		if n.GetType() == peerpb.ChangeNotificationType_PEER_DELETED {
			delete(t, n.GetName())
		} else {
			t[n.GetName()] = fromNotification(n)
		}
	}
}
