package mesh

import (
	"context"
	"maps"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Client is an etcd client, and what makes it connect anew.
type Client struct {
	*clientv3.Client
	Reset func()
}

// Clients are the kvstores of a mesh by clients of the caller's, who leaves
// them to the Mesh.
type Clients struct {
	// Own holds the instances of the own kvstore by name.
	Own map[string]Client
	// Peers holds one client for each peer.
	Peers map[string]Client
}

// Follow is Run with clients in the place of configuration files, for those who
// make their own: it follows those that it was given last until ctx ends, and
// then closes them. A client that comes again under its name stays as it is.
func (m *Mesh) Follow(ctx context.Context, given <-chan Clients) {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	defer m.shutdown()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-given:
			m.adopt(c)
		}
	}
}

func (m *Mesh) adopt(c Clients) {
	if m.own.adopt(c.Own) {
		m.followOwn(nil)
	}
	for _, name := range m.Peers() {
		if c.Peers[name].Client == nil {
			m.setPeer(name, nil)
		}
	}
	for name, client := range c.Peers {
		if members, err := m.members(name); err == nil && members[0].client == client.Client {
			continue
		}
		member := m.newMember(name, client.Client, client.Reset, nil)
		m.setPeer(name, m.follow(&peer{members: []*Member{member}}, func() { client.Close() }))
	}
}

// adopt makes given clients the configured instances, and reports whether any is another one.
func (o *Own) adopt(clients map[string]Client) (changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fresh := map[string]*instance{}
	for name, client := range clients {
		if old := o.instances[name]; old != nil && old.client == client.Client {
			fresh[name] = old
			continue
		}
		fresh[name] = &instance{name: name, client: client.Client, reset: client.Reset}
	}
	if o.problem == nil && maps.Equal(fresh, o.instances) {
		return false
	}
	o.replace(fresh)
	return true
}
