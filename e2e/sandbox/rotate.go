package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// TrustNextCA makes a new authority of the ClusterMesh. The files that are written from here on name both as trusted;
// what is issued is still by the old one. Nothing is written yet.
func (m *Mesh) TrustNextCA() error {
	next, err := newAuthority("Cilium CA")
	if err != nil {
		return err
	}
	both := append(slices.Clone(m.ca.pem), next.pem...)
	m.ca = &authority{cert: m.ca.cert, key: m.ca.key, pem: both, next: next}
	return nil
}

// RotateCA makes the new authority issue what is written from here on. Both are still trusted.
func (m *Mesh) RotateCA() {
	m.ca = &authority{cert: m.ca.next.cert, key: m.ca.next.key, pem: m.ca.pem}
}

// RetireCA makes the files that are written from here on trust only the authority that issues.
func (m *Mesh) RetireCA() {
	m.ca = &authority{cert: m.ca.cert, key: m.ca.key, pem: encodePEM("CERTIFICATE", m.ca.cert.Raw)}
}

// RenewClientCertificates writes new ones, and the trusted authorities, to the peer and kvstore directories of a
// cluster and of its controllers.
func (c *Cluster) RenewClientCertificates() error {
	peers, stores := []string{c.PeerDir}, []string{c.KVStoreDir}
	c.mu.Lock()
	for _, p := range c.Controllers {
		peers, stores = append(peers, p.PeerDir), append(stores, p.KVStoreDir)
	}
	c.mu.Unlock()
	var errs []error
	for _, dir := range peers {
		errs = append(errs, c.writeCredentials(dir, peerFiles(), "remote"))
	}
	for _, dir := range stores {
		errs = append(errs, c.writeCredentials(dir, storeFiles(), c.adminUser()))
	}
	return errors.Join(errs...)
}

// writeCredentials writes what a client of a kvstore proves itself by.
func (c *Cluster) writeCredentials(dir string, names clientFiles, user string) error {
	pair, err := c.mesh.ca.issue(subject{name: user})
	if err != nil {
		return err
	}
	return writeFiles(dir, map[string][]byte{names.ca: c.mesh.ca.pem, names.cert: pair.cert, names.key: pair.key})
}

// RenewCertificates writes a new serving certificate for the instance, which its etcd takes up by itself, and the
// trusted authorities, which it takes up when it is started anew.
func (i *Instance) RenewCertificates() error {
	i.cluster.mu.Lock()
	defer i.cluster.mu.Unlock()
	return i.writeFiles()
}

// RenewWebhookCertificate writes a new serving certificate.
func (p *Controller) RenewWebhookCertificate() error {
	pair, err := p.cluster.ca.issue(p.cluster.webhookSubject())
	if err != nil {
		return err
	}
	return writeFiles(filepath.Join(p.command.dir, "webhook"), map[string][]byte{"tls.crt": pair.cert, "tls.key": pair.key})
}

// Strand makes the connections that are open to the cluster's kvstores now go silent for good, as a load balancer or a
// NAT does that has forgotten them: nobody is told. New connections are not concerned.
func (c *Cluster) Strand() { c.store.strand() }

// RemovePeer takes the file of a peer away from the cluster's controllers, as an edited Secret does.
func (c *Cluster) RemovePeer(peer string) error {
	return c.eachPeerDir(func(dir string) error { return os.Remove(filepath.Join(dir, peer)) })
}

// AddPeer writes what RemovePeer took away.
func (c *Cluster) AddPeer() error { return c.eachPeerDir(c.writePeerDir) }

func (c *Cluster) eachPeerDir(change func(dir string) error) error {
	c.mu.Lock()
	dirs := []string{c.PeerDir}
	for _, p := range c.Controllers {
		dirs = append(dirs, p.PeerDir)
	}
	c.mu.Unlock()
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, change(dir))
	}
	return errors.Join(errs...)
}
