package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// TestPeerFileRemovedAndAdded: c1's configuration loses c3 and gets it back.
func TestPeerFileRemovedAndAdded(t *testing.T) {
	judged(t)
	must(t, part(1).RemovePeer("c3"))
	t.Cleanup(func() { must(t, part(1).AddPeer()) })
	sentence := refused(t, mesh.relative, cluster(1), "c3", "not in this cluster's ClusterMesh configuration")
	granted(t, mesh.relative, cluster(2))
	granted(t, mesh.absolute, cluster(1))
	r := healing(t, linkLimit, mesh.relative, mesh.clusters[:1], part(1).AddPeer)
	row(t, "c3's peer file is taken from c1 and added again", "c1: "+said(sentence)+"; others go on", r)
}

// TestCertificatesRotate replaces every certificate while the mesh runs: the
// webhooks', the clients', the kvstores' and at last their authority.
func TestCertificatesRotate(t *testing.T) {
	judged(t)

	webhooks := part(1).Controllers
	before := servingSerials(t, webhooks)
	for _, p := range webhooks {
		must(t, p.RenewWebhookCertificate())
	}
	r := healing(t, linkLimit, mesh.relative, mesh.clusters[:1], func() error {
		return waitFor(t.Context(), "the webhooks to serve their new certificates", func() error {
			for i, serial := range servingSerials(t, webhooks) {
				if serial == before[i] {
					return fmt.Errorf("%s still serves %s", webhooks[i].Name, serial)
				}
			}
			return nil
		})
	})
	row(t, "the webhooks' certificates of c1 are renewed", "nothing", r)

	r = healing(t, linkLimit, mesh.relative, mesh.clusters[1:2], func() error {
		return everywhere(func(n int) error { return part(n).RenewClientCertificates() })
	})
	row(t, "the clients' certificates of all clusters are renewed", "nothing", r)
	settle(t)

	// The etcd takes its new serving certificate up by itself: every new connection meets it.
	must(t, part(3).Instances[0].RenewCertificates())
	r = healing(t, 5*time.Second, mesh.relative, mesh.clusters[:2], func() error {
		part(3).Strand()
		return nil
	})
	row(t, "the serving certificate of c3's kvstore is renewed, and its old connections go silent", "c1, c2: "+said(unread("c3")), r)
	settle(t)

	if !*long {
		return
	}
	// First all trust the next authority as well, then it issues, then the old one is forgotten. An etcd reads
	// whom it trusts when it starts, so each kvstore is restarted twice.
	must(t, mesh.TrustNextCA())
	r = healing(t, restartLimit, mesh.relative, mesh.clusters, renewAll(t))
	row(t, "kvstores and clients of all clusters learn a new authority: all kvstores restart at once", "as when a kvstore is killed", r)
	mesh.RotateCA()
	must(t, everywhere(func(n int) error { return part(n).RenewClientCertificates() }))
	mesh.RetireCA()
	settle(t)
	r = healing(t, restartLimit, mesh.relative, mesh.clusters, renewAll(t))
	row(t, "they forget the old authority: all kvstores restart at once", "as when a kvstore is killed", r)
}

// renewAll renews certificates in all clusters and restarts all kvstores.
func renewAll(t *testing.T) func() error {
	return func() error {
		return everywhere(func(n int) error {
			if err := part(n).RenewClientCertificates(); err != nil {
				return err
			}
			for _, i := range part(n).Instances {
				if err := i.RenewCertificates(); err != nil {
					return err
				}
				if err := i.Kill(t.Context()); err != nil {
					return err
				}
				if err := i.Start(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// unread is the sentence on a relative bound while a cluster does not answer.
func unread(name string) string {
	return fmt.Sprintf("budget relative/db with maxUnavailable %d cannot be decided without cluster %s (its kvstore does not answer in time)", spare, name)
}

// servingSerials are the serial numbers of the certificates that controllers serve with.
func servingSerials(t *testing.T, controllers []*sandbox.Controller) []string {
	t.Helper()
	var serials []string
	for _, p := range controllers {
		dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(t.Context(), "tcp", p.WebhookAddress())
		must(t, err)
		serials = append(serials, conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String())
		conn.Close()
	}
	return serials
}

// waitFor polls until check returns nil.
func waitFor(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !pause(ctx, askPause) {
			return fmt.Errorf("wait for %s: %w", strings.TrimSpace(what), err)
		}
	}
}
