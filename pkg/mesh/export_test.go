package mesh

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ClientOf hands tests the client of an own instance.
func ClientOf(o *Own, name string) (*clientv3.Client, error) {
	i, err := o.instance(name)
	if err != nil {
		return nil, err
	}
	return i.client, nil
}

// ClientOfPeer hands tests the client of a peer.
func ClientOfPeer(m *Mesh, name string) (*clientv3.Client, error) {
	members, err := m.members(name)
	if err != nil || len(members) == 0 {
		return nil, fmt.Errorf("%d members, %w", len(members), err)
	}
	return members[0].client, nil
}

// SessionsOfPeer tells tests how many sessions the standing view of a peer has begun.
func SessionsOfPeer(m *Mesh, name string) (int, error) {
	members, err := m.members(name)
	if err != nil || len(members) == 0 {
		return 0, fmt.Errorf("%d members, %w", len(members), err)
	}
	members[0].mu.Lock()
	defer members[0].mu.Unlock()
	return members[0].sessions, nil
}

// StreamOf hands tests the context whose watches share a stream with a session's.
func StreamOf(ctx context.Context, session int) context.Context { return streamOf(ctx, session) }
