package mesh

import (
	"context"
	"errors"
	"time"
)

// Held tells what is known of a cluster's part in a budget: whether it has
// published a record of it, and whether it was read at all since we started.
func (m *Mesh) Held(cluster, namespace, name string) (held, read bool) {
	members, err := m.members(cluster)
	if err != nil {
		return false, false
	}
	for _, member := range members {
		h, r := member.budget(join(namespace, name))
		held, read = held || h, read || r
	}
	return held, read
}

// Reachability is the state of a cluster's standing view.
type Reachability struct {
	Cluster string
	// Err says why it cannot be read; nil if it can.
	Err error
	// Since when that has been so.
	Since time.Time
	// Seen is the last time that the store answered.
	Seen time.Time
	// RoundTrip of the last probe.
	RoundTrip time.Duration
}

// Reachable returns the state of the own cluster's and all peers' views.
func (m *Mesh) Reachable() []Reachability {
	var all []Reachability
	for _, name := range append([]string{m.config.Cluster}, m.Peers()...) {
		all = append(all, m.reachability(name))
	}
	return all
}

// OwnReachable returns the state of the own cluster's view.
func (m *Mesh) OwnReachable() Reachability { return m.reachability(m.config.Cluster) }

func (m *Mesh) reachability(name string) Reachability {
	members, err := m.members(name)
	r := Reachability{Cluster: name, Err: err}
	for _, member := range members {
		member.mu.Lock()
		r.Err, r.Since, r.Seen, r.RoundTrip = member.err, member.since, member.seen, member.latency
		if r.Err == nil {
			r.Err = member.view.complete()
		}
		member.mu.Unlock()
		if r.Err == nil {
			break
		}
	}
	return r
}

// certificateExpiry returns when the certificate ends with which a cluster's kvstore is read.
func (m *Mesh) certificateExpiry(cluster string) (time.Time, error) {
	m.mu.Lock()
	p := m.peers[cluster]
	if cluster == m.config.Cluster {
		p = m.self
	}
	var file *clientFile
	if p != nil {
		file = p.file
	}
	m.mu.Unlock()
	if file == nil {
		return time.Time{}, errors.New("it has no etcd client file")
	}
	leaf, err := file.certificate()
	if err != nil {
		return time.Time{}, err
	}
	return leaf.NotAfter, nil
}

// Exports reports whether a peer's Cilium exports endpoints of the Service,
// read afresh: such a cluster takes part even if it runs no meshpdb.
func (m *Mesh) Exports(ctx context.Context, cluster, namespace, service string) (bool, error) {
	members, err := m.members(cluster)
	if err != nil {
		return false, err
	}
	err = errors.New("its kvstore has no instance")
	for _, member := range members {
		var exports bool
		if exports, err = member.exports(ctx, namespace, service); err == nil {
			return exports, nil
		}
	}
	return false, err
}
