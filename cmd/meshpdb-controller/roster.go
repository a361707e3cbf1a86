package main

import (
	"path/filepath"
	"runtime/debug"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/controller"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// setUpRoster tells people of this replica.
func setUpRoster(mgr ctrl.Manager, o options, m *mesh.Mesh, live client.Client, ready func() error) error {
	started, version := time.Now(), version()
	tell := func(now time.Time) roster.Replica {
		r := roster.Replica{
			Name: controllerName(), Cluster: o.clusterName, Version: version, Written: now.UTC().Truncate(time.Millisecond),
			Started: started.UTC().Truncate(time.Second), NotReady: message(ready()), Problem: message(m.Own().Problem()),
		}
		select {
		case <-mgr.Elected():
			r.Leader = true
		default:
		}
		for _, s := range m.Reachable() {
			if s.Cluster != o.clusterName {
				r.Peers = append(r.Peers, store(s.Cluster, s))
			}
		}
		for _, s := range m.OwnInstances() {
			r.Instances = append(r.Instances, store(s.Instance, s))
		}
		r.Certificates = certificatesOf(o, m)
		return r
	}
	teller := &controller.Roster{Client: live, Namespace: o.namespace, Tell: tell, Log: ctrl.Log.WithName("roster")}
	return mgr.Add(everywhere{teller.Run})
}

func store(name string, r mesh.Reachability) roster.Store {
	return roster.Store{
		Name: name, Message: message(r.Err), Since: r.Since.UTC().Truncate(time.Second),
		RoundTrip: float64(r.RoundTrip.Microseconds()) / 1000,
	}
}

func certificatesOf(o options, m *mesh.Mesh) []roster.Certificate {
	serving := filepath.Join(o.webhookCerts, "tls.crt")
	expires, err := expiry(serving)
	all := []roster.Certificate{{Use: "webhook", File: serving, Expires: expires.UTC(), Message: message(err)}}
	for _, c := range m.Certificates() {
		use := "peer " + c.Of
		if c.Of == o.clusterName {
			use = "own kvstore"
		}
		all = append(all, roster.Certificate{Use: use, File: c.File, Expires: c.Expires.UTC(), Message: message(c.Err)})
	}
	return all
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// version is the module's, or what Go makes of the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
