package peers

import (
	"maps"
	"sync"

	peerpb "github.com/cilium/cilium/api/v1/peer"
)

// Peer is a node as Relay is to dial it.
type Peer struct {
	Name, Address string
	// ServerName in its certificate; empty if it serves in plain text.
	ServerName string
}

func (p Peer) notification(t peerpb.ChangeNotificationType) *peerpb.ChangeNotification {
	n := &peerpb.ChangeNotification{Name: p.Name, Address: p.Address, Type: t}
	if p.ServerName != "" {
		n.Tls = &peerpb.TLS{ServerName: p.ServerName}
	}
	return n
}

func fromNotification(n *peerpb.ChangeNotification) Peer {
	return Peer{Name: n.GetName(), Address: n.GetAddress(), ServerName: n.GetTls().GetServerName()}
}

// Table is what is known of peers. The zero value knows none.
type Table struct {
	mu      sync.Mutex
	agents  map[string]Peer
	own     map[string]Peer
	changed chan struct{}
}

// SetAgents replaces the peers that Cilium's peer service announces.
func (t *Table) SetAgents(peers map[string]Peer) { t.set(&t.agents, peers) }

// SetOwn replaces meshpdb's observers. Where a name is both, it is an observer.
func (t *Table) SetOwn(peers map[string]Peer) { t.set(&t.own, peers) }

func (t *Table) set(which *map[string]Peer, peers map[string]Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if maps.Equal(*which, peers) {
		return
	}
	*which = maps.Clone(peers)
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Peers returns all peers by name, and a channel that is closed when they change.
func (t *Table) Peers() (peers map[string]Peer, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	peers = map[string]Peer{}
	maps.Copy(peers, t.agents)
	maps.Copy(peers, t.own)
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return peers, t.changed
}

// Service is the Hubble peer service of a Table.
type Service struct {
	peerpb.UnimplementedPeerServer
	Table *Table
}

// Notify announces all peers, and then every change, until the subscriber goes.
func (s Service) Notify(_ *peerpb.NotifyRequest, stream peerpb.Peer_NotifyServer) error {
	told := map[string]Peer{}
	for {
		peers, changed := s.Table.Peers()
		for _, n := range differences(told, peers) {
			if err := stream.Send(n); err != nil {
				return err
			}
		}
		told = peers
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func differences(told, now map[string]Peer) []*peerpb.ChangeNotification {
	var all []*peerpb.ChangeNotification
	for name, p := range told {
		if _, still := now[name]; !still {
			all = append(all, p.notification(peerpb.ChangeNotificationType_PEER_DELETED))
		}
	}
	for name, p := range now {
		switch before, known := told[name]; {
		case !known:
			all = append(all, p.notification(peerpb.ChangeNotificationType_PEER_ADDED))
		case before != p:
			all = append(all, p.notification(peerpb.ChangeNotificationType_PEER_UPDATED))
		}
	}
	return all
}
