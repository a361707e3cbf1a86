package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

var quiet = slog.New(slog.DiscardHandler)

func config() Config {
	return Config{Cluster: "c1", Controller: "controller-0", Version: "v1", Capacity: 1023, Queue: 64, Log: quiet}
}

func newObserver(t *testing.T, c Config) *Observer {
	t.Helper()
	o, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// run runs an observer until the test ends.
func run(t *testing.T, o *Observer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// dial serves an observer in plain text and returns a client of it.
func dial(t *testing.T, o *Observer) observerpb.ObserverClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Server{Listener: listener, Log: quiet}.Serve(ctx, o) }()
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		connection.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return observerpb.NewObserverClient(connection)
}

func decision(review string) flow.Decision {
	return flow.Decision{
		Time: time.Now(), Review: review, Verdict: flow.Refused, Reason: "InsufficientPods", Sentence: "there is no room", Path: "eviction", User: "jane",
		Object: flow.Object{Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "prod", Name: "db-0", Eviction: true},
	}
}

// get returns the reviews that a request finds.
func get(t *testing.T, client observerpb.ObserverClient, r *observerpb.GetFlowsRequest) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.GetFlows(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, answer.GetFlow().GetUuid())
	}
}

// awaitNewest polls until a query finds a review as the newest.
func awaitNewest(t *testing.T, client observerpb.ObserverClient, review string) {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if found = get(t, client, &observerpb.GetFlowsRequest{Number: 1}); len(found) == 1 && found[0] == review {
			return
		}
	}
	t.Fatalf("the newest are %q, want %s", found, review)
}

// TestNewestIsVisible: the only decision is found, and the newest of many, while somebody follows from before the first.
func TestNewestIsVisible(t *testing.T) {
	o := newObserver(t, config())
	run(t, o)
	client := dial(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// The ring is empty now.
	follower, err := client.GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		o.Publish(decision(fmt.Sprint(i)))
		awaitNewest(t, client, fmt.Sprint(i))
	}
	var last time.Time
	for i := range 50 {
		answer, err := follower.Recv()
		if err != nil {
			t.Fatalf("the follower saw %d: %v", i, err)
		}
		f := answer.GetFlow()
		if f.GetUuid() != fmt.Sprint(i) || f.GetNodeName() != "c1/controller-0" || f.GetEmitter().GetVersion() != "v1" || !f.GetTime().AsTime().After(last) {
			t.Fatalf("the follower's %d. is %v", i, f)
		}
		last = f.GetTime().AsTime()
	}
}

// TestLimits: queries count decisions, and nothing of what lies between them.
func TestLimits(t *testing.T) {
	c := config()
	c.Capacity = 7
	o := newObserver(t, c)
	run(t, o)
	client := dial(t, o)
	for i := range 20 {
		o.Publish(decision(fmt.Sprint(i)))
	}
	awaitNewest(t, client, "19")
	for name, q := range map[string]struct {
		request *observerpb.GetFlowsRequest
		want    []string
	}{
		"last":  {&observerpb.GetFlowsRequest{Number: 3}, []string{"17", "18", "19"}},
		"first": {&observerpb.GetFlowsRequest{Number: 2, First: true}, []string{"12", "13"}},
		"all":   {&observerpb.GetFlowsRequest{Number: 1000}, []string{"12", "13", "14", "15", "16", "17", "18", "19"}},
	} {
		if got := get(t, client, q.request); fmt.Sprint(got) != fmt.Sprint(q.want) {
			t.Errorf("%s: %q, want %q", name, got, q.want)
		}
	}
	status, err := client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil || status.GetNumFlows() != 7 || status.GetMaxFlows() != 7 || status.GetSeenFlows() != 20 || status.GetVersion() != "meshpdb v1" {
		t.Errorf("status %v, %v", status, err)
	}
}

// TestLossIsTold: what found no room in the queue is counted, told to readers and exported as lost.
func TestLossIsTold(t *testing.T) {
	c := config()
	out := &lines{}
	c.Queue, c.Export = 4, out
	o := newObserver(t, c)
	for i := range 10 {
		// Nobody takes from the queue yet.
		o.Publish(decision(fmt.Sprint(i)))
	}
	run(t, o)
	client := dial(t, o)
	awaitNewest(t, client, "3")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: 100})
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d shown, no loss told: %v", shown, err)
		}
		if answer.GetFlow() != nil {
			shown++
			continue
		}
		lost := answer.GetLostEvents()
		if shown != 4 || lost.GetNumEventsLost() != 6 || lost.GetSource() != flowpb.LostEventSource_OBSERVER_EVENTS_QUEUE ||
			answer.GetNodeName() != "c1/controller-0" || lost.GetLast().AsTime().Before(lost.GetFirst().AsTime()) {
			t.Errorf("%d shown, told %v", shown, answer)
		}
		break
	}
	if got := out.all(t); len(got) != 5 || got[4].GetLostEvents().GetNumEventsLost() != 6 || got[4].GetNodeName() != "c1/controller-0" {
		t.Errorf("exported %v", got)
	}
	if _, got, _ := o.recent.counts(); got != 6 {
		t.Errorf("%d counted as lost", got)
	}
}

// TestWhoIsThere: what hubble list shows without Relay.
func TestWhoIsThere(t *testing.T) {
	o := newObserver(t, config())
	run(t, o)
	client := dial(t, o)
	o.Publish(decision("1"))
	awaitNewest(t, client, "1")
	nodes, err := client.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil || len(nodes.GetNodes()) != 1 || nodes.GetNodes()[0].GetName() != "c1/controller-0" || nodes.GetNodes()[0].GetNumFlows() != 1 {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	namespaces, err := client.GetNamespaces(t.Context(), &observerpb.GetNamespacesRequest{})
	if n := namespaces.GetNamespaces(); err != nil || len(n) != 1 || n[0].GetCluster() != "c1" || n[0].GetNamespace() != "prod" {
		t.Errorf("namespaces %v, %v", namespaces, err)
	}
	if stream, err := client.GetAgentEvents(t.Context(), &observerpb.GetAgentEventsRequest{}); err == nil {
		if _, err = stream.Recv(); err == nil {
			t.Error("empty events are shown as an agent's")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"odd capacity":   func(c *Config) { c.Capacity = 1000 },
		"large capacity": func(c *Config) { c.Capacity = 1<<16 - 1 },
		"no queue":       func(c *Config) { c.Queue = 0 },
	} {
		c := config()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	c := config()
	c.Capacity = MaxCapacity
	if _, err := New(c); err != nil {
		t.Error(err)
	}
}
