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
	// Instance of the own kvstore; empty for a peer, which is read through its Service.
	Instance string
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
	for _, name := range m.clusters() {
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
		r = member.reachability()
		if r.Err == nil {
			break
		}
	}
	return r
}

// clientFileOf returns the etcd client file by which a cluster is read; nil if it has none that can be used.
func (m *Mesh) clientFileOf(cluster string) *clientFile {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peerOf(cluster); p != nil {
		return p.file
	}
	return nil
}

func (m *Member) reachability() Reachability {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Reachability{Cluster: m.cluster, Instance: m.instance, Err: m.err, Since: m.since, Seen: m.seen, RoundTrip: m.latency}
	if r.Err == nil {
		r.Err = m.view.complete()
	}
	return r
}

// OwnInstances returns the state of the view of each instance of the own
// kvstore, by the instances' names.
func (m *Mesh) OwnInstances() []Reachability {
	m.mu.Lock()
	self := m.self
	m.mu.Unlock()
	all := make([]Reachability, 0, len(self.members))
	for _, member := range self.members {
		all = append(all, member.reachability())
	}
	return all
}

// Certificate is a client certificate by which kvstores are read or written.
type Certificate struct {
	// Of is the peer, or the own cluster, whose client file names the certificate.
	Of string
	// File that holds it.
	File string
	// Expires is when it ends; zero if it cannot be read.
	Expires time.Time
	// Err says why it cannot be read.
	Err error
}

// Certificates reads the client certificates of all clusters, the own one first.
func (m *Mesh) Certificates() []Certificate {
	var all []Certificate
	for _, name := range m.clusters() {
		file := m.clientFileOf(name)
		if file == nil {
			continue
		}
		c := Certificate{Of: name, File: file.CertFile}
		leaf, err := file.certificate()
		if c.Err = err; err == nil {
			c.Expires = leaf.NotAfter
		}
		all = append(all, c)
	}
	return all
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
