package plugin

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/hubble"
	"github.com/meshpdb/meshpdb/pkg/hubble/reader"
	"github.com/meshpdb/meshpdb/pkg/hubble/testserver"
)

// serveFlows serves decisions as a controller does, on a socket of the working directory, and returns its address.
func serveFlows(t *testing.T, all ...flow.Decision) string {
	t.Helper()
	listener, err := net.Listen("unix", "hubble.sock")
	if err != nil {
		t.Fatal(err)
	}
	o := testserver.Start(t, hubble.Config{Cluster: "c1", Controller: "controller-0", Version: "v1", Capacity: 15, Queue: 8, Log: slog.New(slog.DiscardHandler)}, listener, nil)
	for i := range all {
		all[i].Review = fmt.Sprint(i)
		o.Publish(all[i])
	}
	// They are shown a moment later than they are published.
	server := reader.Server{Address: "unix:hubble.sock", Timeout: 10 * time.Second}
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		found, err := server.Decisions(t.Context(), time.Time{})
		if err == nil && len(found.All) == len(all) {
			return server.Address
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server shows %d of %d decisions: %v", len(found.All), len(all), err)
		}
	}
}

// TestHistoryOfAServer: decisions from a Hubble server, by its own API, and what holds the budget back now.
func TestHistoryOfAServer(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	decide := func(at time.Duration, pod string, verdict flow.Verdict, sentence string) flow.Decision {
		return flow.Decision{
			Time: noon.Add(-at), Cluster: "c1", Controller: "controller-0", Verdict: verdict, Admitted: verdict == flow.Allowed, Reason: "InsufficientPods", Path: "eviction", Sentence: sentence, User: "jane",
			Object:  flow.Object{Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "prod", Name: pod, Eviction: true},
			Budgets: []flow.Budget{{Namespace: "prod", Name: "db"}},
		}
	}
	const refused = "evicting db-1 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight; c3 3/3)"
	address := serveFlows(t,
		decide(time.Hour, "db-0", flow.Allowed, "evicting db-0 leaves 8 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 3/3)"),
		decide(90*time.Second, "db-1", flow.Refused, refused), decide(85*time.Second, "db-1", flow.Refused, refused),
	)
	f := newFleet(t)
	f.order, f.testdata = []string{"c1"}, testdata
	f.add(t, "c1", budgetOf(spent))
	f.wantGolden(t, "history-server", "history db --hubble-server "+address, "history pod/db-1 --since 10m --hubble-server "+address,
		"history db --since 10s --hubble-server "+address, "history db --hubble-server unix:none.sock")
}
