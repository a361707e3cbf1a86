package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Place is where observers of one cluster are.
type Place struct {
	Cluster string
	// Host has an address for each observer, as a headless Service has for each pod.
	Host, Port string
}

// ParsePlaces reads "host:port" or "cluster=host:port", separated by commas.
func ParsePlaces(text, cluster string) ([]Place, error) {
	var places []Place
	for one := range strings.SplitSeq(text, ",") {
		p := Place{Cluster: cluster}
		address := strings.TrimSpace(one)
		if name, rest, named := strings.Cut(address, "="); named {
			p.Cluster, address = name, rest
		}
		var err error
		if p.Host, p.Port, err = net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("parse observers %q: %w", one, err)
		}
		if p.Cluster == "" || p.Host == "" || p.Port == "" {
			return nil, fmt.Errorf("parse observers %q: want [cluster=]host:port", one)
		}
		places = append(places, p)
	}
	return places, nil
}

// ServerName is the name that Cilium's certificates have for a node of a
// cluster (pkg/hubble/peer): one label each, and what would be a dot is a hyphen.
func ServerName(node, cluster string) string {
	label := func(s string) string { return strings.ReplaceAll(s, ".", "-") }
	return label(node) + "." + label(cluster) + ".hubble-grpc.cilium.io"
}

// Observers finds meshpdb's observers and asks each for its name.
type Observers struct {
	Places []Place
	// Credentials for a server of that name; insecure ones ignore it.
	Credentials func(serverName string) credentials.TransportCredentials
	// TLS: Relay is told to expect certificates.
	TLS   bool
	Table *Table
	Log   *slog.Logger
	// Interval between two looks.
	Interval time.Duration
	// Resolve is net.DefaultResolver.LookupHost.
	Resolve func(ctx context.Context, host string) ([]string, error)

	byAddress map[string]Peer
}

// askTimeout bounds one question for a name.
const askTimeout = 3 * time.Second

// observerNode is the part of a server's name that stands for the node. Certificates of Cilium's chart are
// good for any.
const observerNode = "meshpdb"

// Run looks until ctx ends.
func (o *Observers) Run(ctx context.Context) error {
	o.byAddress = map[string]Peer{}
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		o.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look announces who answers, and goes on announcing him for as long as his address is there.
func (o *Observers) look(ctx context.Context) {
	now := map[string]Peer{}
	for _, place := range o.Places {
		hosts, err := o.resolve(ctx, place.Host)
		var unknown *net.DNSError
		if err != nil && (!errors.As(err, &unknown) || !unknown.IsNotFound) {
			// Who cannot be looked up is not gone.
			o.Log.Warn("observers cannot be looked up; those known stay", "host", place.Host, "error", err)
			o.keep(place, now)
			continue
		}
		for _, host := range hosts {
			address := net.JoinHostPort(host, place.Port)
			peer, err := o.ask(ctx, place, address)
			if err == nil {
				now[address] = peer
			} else if before, known := o.byAddress[address]; known {
				now[address] = before
			} else {
				o.Log.Info("observer does not answer yet", "address", address, "error", err)
			}
		}
	}
	o.byAddress = now
	byName := make(map[string]Peer, len(now))
	for _, p := range now {
		byName[p.Name] = p
	}
	o.Table.SetOwn(byName)
}

func (o *Observers) resolve(ctx context.Context, host string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return o.Resolve(ctx, host)
}

func (o *Observers) keep(place Place, now map[string]Peer) {
	for address, p := range o.byAddress {
		if strings.HasPrefix(p.Name, place.Cluster+"/") && strings.HasSuffix(address, ":"+place.Port) {
			now[address] = p
		}
	}
}

// ask dials an observer for its name.
func (o *Observers) ask(ctx context.Context, place Place, address string) (Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	peer := Peer{Address: address}
	serverName := ServerName(observerNode, place.Cluster)
	if o.TLS {
		peer.ServerName = serverName
	}
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(o.Credentials(serverName)))
	if err != nil {
		return peer, fmt.Errorf("dial observer %s: %w", address, err)
	}
	defer connection.Close()
	answer, err := observerpb.NewObserverClient(connection).GetNodes(ctx, &observerpb.GetNodesRequest{})
	if err != nil {
		return peer, fmt.Errorf("ask observer %s: %w", address, err)
	}
	if nodes := answer.GetNodes(); len(nodes) == 1 && strings.HasPrefix(nodes[0].GetName(), place.Cluster+"/") {
		peer.Name = nodes[0].GetName()
		return peer, nil
	}
	return peer, fmt.Errorf("ask observer %s: it is no observer of cluster %s", address, place.Cluster)
}
