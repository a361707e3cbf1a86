package reader_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/hubble"
	"github.com/meshpdb/meshpdb/pkg/hubble/reader"
	"github.com/meshpdb/meshpdb/pkg/hubble/testcert"
	"github.com/meshpdb/meshpdb/pkg/hubble/testserver"
)

const name = "meshpdb.c1.hubble-grpc.cilium.io"

// serve shows and exports three decisions, and returns the server's address and the file.
func serve(t *testing.T, files *hubble.TLS) (address, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "decisions.log")
	export, err := hubble.OpenExport(hubble.ExportConfig{Path: path, MaxSizeMB: 1, MaxBackups: 1})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := testserver.Start(t, hubble.Config{Cluster: "c1", Controller: "controller-0", Version: "v1", Capacity: 15, Queue: 8, Export: export, Log: slog.New(slog.DiscardHandler)}, listener, files)
	for i, sentence := range []string{"first", "second", "third"} {
		o.Publish(flow.Decision{
			Time: time.Unix(1_700_000_000+int64(i), 0), Review: sentence, Cluster: "c1", Controller: "controller-0", Verdict: flow.Refused, Reason: "InsufficientPods", Sentence: sentence, Path: "eviction",
			Object:  flow.Object{Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "prod", Name: "db-0", Eviction: true},
			Budgets: []flow.Budget{{Namespace: "prod", Name: "db"}},
		})
	}
	return listener.Addr().String(), path
}

func sentences(d reader.Decisions) string {
	var all []string
	for _, one := range d.All {
		all = append(all, one.Sentence)
	}
	return strings.Join(all, " ")
}

// await asks until all decisions are shown: the observer takes them out of a queue.
func await(t *testing.T, want string, ask func() (reader.Decisions, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := ask()
		if err == nil && sentences(found) == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("found %q, %v; want %q", sentences(found), err, want)
		case <-tick.C:
		}
	}
}

func TestServer(t *testing.T) {
	address, path := serve(t, nil)
	server := reader.Server{Address: address, Timeout: 10 * time.Second}
	await(t, "first second third", func() (reader.Decisions, error) { return server.Decisions(t.Context(), time.Time{}) })
	await(t, "second third", func() (reader.Decisions, error) { return server.Decisions(t.Context(), time.Unix(1_700_000_001, 0)) })
	await(t, "first second third", func() (reader.Decisions, error) {
		f, err := os.Open(path)
		if err != nil {
			return reader.Decisions{}, err
		}
		defer f.Close()
		return reader.File(f)
	})
}

func TestServerWithTLS(t *testing.T) {
	dir := testcert.Issue(t, name, time.Now())
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	address, _ := serve(t, &hubble.TLS{CertFile: cert, KeyFile: key, ClientCAFiles: []string{cert}})
	good := reader.Server{Address: address, Timeout: 10 * time.Second, CACertFiles: []string{cert}, ClientCertFile: cert, ClientKeyFile: key, ServerName: name}
	await(t, "first second third", func() (reader.Decisions, error) { return good.Decisions(t.Context(), time.Time{}) })
	unverified := good
	unverified.CACertFiles, unverified.ServerName, unverified.AllowInsecure = nil, "", true
	if found, err := unverified.Decisions(t.Context(), time.Time{}); err != nil || len(found.All) != 3 {
		t.Errorf("unverified found %v, %v", found, err)
	}
	for says, change := range map[string]func(*reader.Server){
		// In TLS 1.3 the client may have written before it hears why, and then it hears of a broken pipe only.
		"hubble server " + address: func(s *reader.Server) { s.ClientCertFile, s.ClientKeyFile = "", "" },
		"certificate is valid":     func(s *reader.Server) { s.ServerName = "other" },
		"unknown authority":        func(s *reader.Server) { s.CACertFiles, s.Address = nil, "tls://"+address },
		"no certificate is in":     func(s *reader.Server) { s.CACertFiles = []string{key} },
		"client certificate":       func(s *reader.Server) { s.ClientKeyFile = "" },
		"no such file":             func(s *reader.Server) { s.CACertFiles = []string{"none"} },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Decisions(t.Context(), time.Time{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want an error that says %q, got %v", says, err)
		}
	}
}

// TestNobodyThere: a server that is away ends it, and says which.
func TestNobodyThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if _, err := (reader.Server{Address: listener.Addr().String(), Timeout: 10 * time.Second}).Decisions(t.Context(), time.Time{}); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestFile(t *testing.T) {
	const one = `{"flow":{"emitter":{"name":"meshpdb"},"verdict":"DROPPED","extensions":{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"sentence":"said"}}},"node_name":"c1/a","something_new":1}`
	for _, c := range []struct {
		name, text, says string
		found            int
		lost             uint64
	}{
		{"nothing", "", "", 0, 0},
		{"one, without an end of the line", one, "", 1, 0},
		{"empty lines", "\n" + one + "\n\n" + one + "\n", "", 2, 0},
		{"losses", one + "\n" + `{"lost_events":{"num_events_lost":"4"}}` + "\n" + `{"lost_events":{"num_events_lost":"1"}}`, "", 1, 5},
		{"others' flows, with what is not known here", `{"flow":{"emitter":{"name":"Hubble"},"extensions":{"@type":"type.googleapis.com/unknown.Type"}}}` + "\n" + one, "", 1, 0},
		{"cut short", one + "\n" + one[:80], "line 2", 1, 0},
	} {
		found, err := reader.File(strings.NewReader(c.text))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || len(found.All) != c.found || found.Lost != c.lost {
			t.Errorf("%s: found %+v, %v", c.name, found, err)
		}
	}
	if _, err := reader.File(io.MultiReader(strings.NewReader(one), failing{})); err == nil {
		t.Error("a file that cannot be read is read")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
