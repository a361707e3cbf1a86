package mesh

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	slim "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// query asks for the budget that all these tests are about.
var query = Query{Namespace: "prod", Budgets: []BudgetRef{{Name: "db", Service: "db"}}}

// golden are the values of package wire's golden files, by the key under which peers write them.
func golden(f *testing.F) map[string][]byte {
	f.Helper()
	all := map[string][]byte{}
	for file, key := range map[string]string{
		"incarnation": "incarnation", "marker": "marker", "budget-max": "budgets/prod/db", "budget-min": "budgets/prod/web",
		"budget-deleted": "budgets/prod/old", "pod-available": "pods/prod/db/p-1", "pod-unavailable": "pods/prod/db/p-2",
		"claim": "claims/prod/c-1", "waiters": "waiters/prod/db/meshpdb-0",
	} {
		data, err := os.ReadFile(filepath.Join("..", "wire", "testdata", file+".json"))
		if err != nil {
			f.Fatal(err)
		}
		all[wire.ClusterPrefix("c2")+key] = data
	}
	return all
}

// FuzzRecords puts any value under any key beside those of a complete peer. What it takes is accounted and given
// back, what it says is short and stays on one line, what cannot be read harms only what its key is about.
func FuzzRecords(f *testing.F) {
	all := golden(f)
	for key, value := range all {
		f.Add(key, value)
		f.Add(strings.Replace(key, "prod", "stage", 1), value)
		f.Add(key, []byte(`{"service":"\u001b[2J`+strings.Repeat("x", 250)+`","minAvailable":"1","undecided":"a\nb\u0007`+strings.Repeat("y", 5000)+`"}`))
	}
	f.Add(wire.ClusterPrefix("c2")+"pods/prod/db/"+strings.Repeat("k\n", 5000), []byte("nonsense"))
	f.Add(wire.ClusterPrefix("c2")+"pods/prod/db/"+strings.Repeat("k", 5000), []byte("nonsense"))
	f.Add(wire.ClusterPrefix("c2")+"budgets/prod/db", []byte(`{"service":"db","minAvailable":"1","undecided":"`+strings.Repeat("all is well ", 500)+`"}`))
	f.Add(wire.ClusterPrefix("c3")+"marker", []byte(`{"incarnation":"6f1c"}`))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r := newRecords("c2")
		for k, v := range all {
			r.apply(k, v)
		}
		before := r.snapshot(query, nil)
		if before.Invalid != "" || len(before.Budgets["prod/db"].Pods) != 2 {
			t.Fatalf("a complete peer reads %+v", before)
		}
		held := r.held
		_, taken := all[key]
		k, keyErr := wire.ParseKey("c2", key)
		r.apply(key, value)
		switch after := r.held; {
		case keyErr != nil && after != held:
			t.Fatal("what is not under our prefix is held")
		case after < 0 || after > held+64*(len(key)+len(value))+8*perRecord:
			t.Fatalf("%d bytes are held for %d", after-held, len(key)+len(value))
		}
		s := r.snapshot(query, nil)
		s.Waiters = r.waiting(query)
		checkSnapshot(t, s)
		if subject := subjectOf(k); keyErr != nil || subject != "" && subject != "prod" && subject != "prod/db" {
			if got := s.Budgets["prod/db"]; s.Invalid != "" || got.Undecided != "" || len(got.Pods) != 2 {
				t.Fatalf("%q harms prod/db: %+v", key, s)
			}
		}
		// Twice is once, and what goes gives back all that it took.
		again := r.held
		if r.apply(key, value); r.held != again {
			t.Fatalf("held %d, the same again %d", again, r.held)
		}
		if r.remove(key); !taken && r.held != held {
			t.Fatalf("held %d, then %d", held, r.held)
		}
		for k := range all {
			r.remove(k)
		}
		if r.held != 0 {
			t.Fatalf("nothing is held in %d bytes", r.held)
		}
	})
}

func checkSnapshot(t *testing.T, s claim.Snapshot) {
	t.Helper()
	checkWords(t, s.Invalid)
	for _, b := range s.Budgets {
		checkWords(t, b.Undecided)
	}
	for _, waiters := range s.Waiters {
		if len(waiters) > maxTold {
			t.Fatalf("%d waiters", len(waiters))
		}
		for _, w := range waiters {
			if age := time.Since(w.First); age < 0 || age > 25*time.Hour || w.Every < 0 || w.Ticket == 0 || w.Ticket > claim.LastTicket {
				t.Fatalf("waiter %+v", w)
			}
		}
	}
	for _, c := range s.Claims {
		if c.Cluster != "c2" || c.Ticket > claim.LastTicket || c.UID == "" {
			t.Fatalf("claim %+v", c)
		}
	}
}

// checkWords: a sentence of a peer's fits into an Event beside ours, and into a line.
func checkWords(t *testing.T, words string) {
	t.Helper()
	if len(words) > 5*maxWords || strings.ContainsFunc(words, func(r rune) bool { return r < ' ' || r == 0x7f || r == math.MaxInt32 }) {
		t.Fatalf("%d bytes: %q", len(words), words)
	}
}

// exported are values as Cilium writes them.
func exported(f *testing.F) (config, service, slice []byte) {
	f.Helper()
	config, err := json.Marshal(cmtypes.CiliumClusterConfig{ID: 2, Capabilities: cmtypes.CiliumClusterConfigCapabilities{
		SyncedCanaries: true, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices}})
	if err != nil {
		f.Fatal(err)
	}
	record := store.NewClusterService("db", "prod")
	record.Cluster, record.ClusterID, record.Shared = "c2", 2, true
	record.Backends["10.2.0.1"] = store.PortConfiguration{}
	if service, err = record.Marshal(); err != nil {
		f.Fatal(err)
	}
	if slice, err = someSlice().Marshal(); err != nil {
		f.Fatal(err)
	}
	return config, service, slice
}

func someSlice() *endpointslice.ClusterEndpointSlice {
	s := &endpointslice.ClusterEndpointSlice{Cluster: "c2", ClusterID: 2}
	s.Namespace, s.Name, s.AddressType = "prod", "db-1", slim.AddressTypeIPv4
	s.Labels = map[string]string{"kubernetes.io/service-name": "db"}
	s.Endpoints = []slim.Endpoint{{Addresses: []string{"10.2.0.1"}}}
	return s
}

// bomb is a kilobyte that Cilium's own limit lets become 16 MiB of endpoints without fields.
func bomb(t testing.TB) []byte {
	t.Helper()
	raw := []byte(strings.Repeat("\x1a\x00", 8<<20-100))
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(raw, nil)
}

// FuzzExports decodes anything as what Cilium exports: a peer's values are counted or refused in a few words that
// name the value, and no value is large once it is decompressed.
func FuzzExports(f *testing.F) {
	config, service, slice := exported(f)
	old := []byte(`{"id":2,"capabilities":{"syncedCanaries":true}}`)
	f.Add(config, service, slice)
	f.Add(old, service, slice)
	f.Add([]byte(`{"capabilities":{"cached":true}}`), []byte(nil), []byte(nil))
	f.Add([]byte(strings.Repeat("[", 20000)), []byte(strings.Repeat(`{"a":`, 20000)), slice[:len(slice)/2])
	f.Add(old, []byte(`{"cluster":"c2","namespace":"prod","name":"db","clusterID":2,"backends":{"`+strings.Repeat("\x1b", 300)+`":{}}}`), []byte("nonsense"))
	f.Add(config, []byte(nil), bomb(f))
	f.Fuzz(func(t *testing.T, config, service, slice []byte) {
		values := map[string][]byte{
			clusterConfigKey("c2"): config, servicesSyncedKey("c2"): nil, slicesSyncedKey("c2"): nil,
			serviceKey("c2", "prod", "db"): service, slicesPrefix("c2", "prod") + "db-1": slice,
		}
		e, err := decodeExports("c2", "prod", values)
		if err != nil {
			checkWords(t, err.Error())
			if !strings.Contains(err.Error(), "cluster-config of c2") && !strings.Contains(err.Error(), "kvstoremesh") {
				t.Fatalf("%v names no value", err)
			}
			return
		}
		for _, name := range []string{"db", "web"} {
			addresses, err := e.serving(name)
			if err != nil {
				checkWords(t, err.Error())
				if addresses != nil || !strings.Contains(err.Error(), "decode ") || !strings.Contains(err.Error(), "c2") {
					t.Fatalf("%v, %v", addresses, err)
				}
			} else if addresses == nil {
				t.Fatal("that all addresses are usable was told by nobody")
			}
		}
	})
}

func TestABombIsRefused(t *testing.T) {
	data := bomb(t)
	if len(data) > 4<<10 {
		t.Fatalf("%d bytes", len(data))
	}
	e := newExports("c2", "prod", map[string][]byte{slicesPrefix("c2", "prod") + "db-1": data})
	if _, err := e.serving("db"); err == nil || err.Error() != "decode endpoint slice db-1 of c2: it exceeds 1048576 bytes when decompressed" {
		t.Errorf("got %v", err)
	}
	// Many that are just small enough.
	s := someSlice()
	s.Labels["padding"] = strings.Repeat("x", maxExport-1000)
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{}
	for i := range 20 {
		values[fmt.Sprintf("%sdb-%d", slicesPrefix("c2", "prod"), i)] = data
	}
	if _, err := newExports("c2", "prod", values).serving("db"); err == nil || err.Error() != "decode endpoint slices of c2: those of namespace prod exceed 16 MiB" {
		t.Errorf("got %v", err)
	}
}

// FuzzClientFile reads anything as the file by which a peer is reached: it is taken whole or refused with its path.
func FuzzClientFile(f *testing.F) {
	certificates := f.TempDir()
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		if err := os.WriteFile(filepath.Join(certificates, name), []byte(name), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	file := strings.ReplaceAll(`endpoints: ["https://c2.mesh.cilium.io:2379"]
trusted-ca-file: DIR/ca.crt
cert-file: DIR/tls.crt
key-file: DIR/tls.key
`, "DIR", certificates)
	for _, text := range []string{
		file, file + "cilium-host-aliases:\n- {hostname: c2.mesh.cilium.io, ips: [127.0.0.1, \"fd00::1\"]}\n", strings.Replace(file, "trusted-ca-file", "ca-file", 1),
		"", "null", "endpoints: x", "endpoints: [https://c2\n  cert-file", file + "cilium-host-aliases: [{hostname: x, ips: [nonsense]}]\n",
		strings.Replace(file, "https://c2", "\x1b[2J", 1), strings.Replace(file, certificates, "/nowhere", 1),
		"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\nendpoints: [*d,*d,*d,*d,*d,*d,*d,*d]\n",
		file + "# " + strings.Repeat("x", maxClientFile),
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		// One worker runs one input after the other.
		path := filepath.Join(dir, fmt.Sprint("c2-", os.Getpid()))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		one, err := readClientFile(path)
		if err != nil {
			if one != nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("%v does not name its file", err)
			}
			return
		}
		if len(content) > maxClientFile || len(one.Endpoints) == 0 || one.CertFile == "" || one.KeyFile == "" || one.TrustedCA == "" {
			t.Fatalf("%+v was taken in from %d bytes", one, len(content))
		}
		if again, err := readClientFile(path); err != nil || again.hash != one.hash || again.credentials != one.credentials {
			t.Fatalf("read again: %v", err)
		}
		// The certificates of these tests are none, which is found out before anything is dialled.
		if client, _, err := one.dial(one.Endpoints, "", ""); err == nil {
			client.Close()
			t.Fatal("dialled without certificates")
		}
	})
}
