package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

var quiet = slog.New(slog.DiscardHandler)

func plain(string) credentials.TransportCredentials { return insecure.NewCredentials() }

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve serves until it is told to stop, or the test ends.
func serve(t *testing.T, l net.Listener, register func(*grpc.Server)) (stop func()) {
	t.Helper()
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	stop = func() {
		s.Stop()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// await waits until a table has exactly the names.
func await(t *testing.T, table *Table, names ...string) map[string]Peer {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		now, changed := table.Peers()
		if slices.Equal(slices.Sorted(maps.Keys(now)), names) {
			return now
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("known are %v, want %q", now, names)
		}
	}
}

// TestSubscribersAreToldDifferences: everything at first, then what changes, and a name that is both is the observer.
func TestSubscribersAreToldDifferences(t *testing.T) {
	table := &Table{}
	table.SetAgents(map[string]Peer{"c1/node-a": {Name: "c1/node-a", Address: "10.0.0.1:4244"}, "c1/m-0": {Name: "c1/m-0", Address: "forged"}})
	table.SetOwn(map[string]Peer{"c1/m-0": {Name: "c1/m-0", Address: "10.1.0.1:4244", ServerName: "meshpdb.c1.hubble-grpc.cilium.io"}})
	l := listen(t, "127.0.0.1:0")
	serve(t, l, func(s *grpc.Server) { peerpb.RegisterPeerServer(s, Service{Table: table}) })
	connection, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(plain("")))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := peerpb.NewPeerClient(connection).Notify(ctx, &peerpb.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	receive := func(n int) []string {
		var got []string
		for range n {
			c, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s %s %s %s", c.GetType(), c.GetName(), c.GetAddress(), c.GetTls().GetServerName()))
		}
		slices.Sort(got)
		return got
	}
	want := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("told\n%q, want\n%q", got, want)
		}
	}
	want(receive(2), "PEER_ADDED c1/m-0 10.1.0.1:4244 meshpdb.c1.hubble-grpc.cilium.io", "PEER_ADDED c1/node-a 10.0.0.1:4244 ")
	table.SetAgents(map[string]Peer{"c1/node-a": {Name: "c1/node-a", Address: "10.0.0.2:4244"}})
	want(receive(1), "PEER_UPDATED c1/node-a 10.0.0.2:4244 ")
	table.SetAgents(map[string]Peer{"c1/node-b": {Name: "c1/node-b", Address: "10.0.0.3:4244"}})
	want(receive(2), "PEER_ADDED c1/node-b 10.0.0.3:4244 ", "PEER_DELETED c1/node-a 10.0.0.2:4244 ")
}

// TestAgentsStayWhileTheirServiceIsAway, and those are forgotten that it does not announce again.
func TestAgentsStayWhileTheirServiceIsAway(t *testing.T) {
	table, cilium := &Table{}, &Table{}
	agents := func(names ...string) map[string]Peer {
		all := map[string]Peer{}
		for _, n := range names {
			all[n] = Peer{Name: n, Address: "10.0.0.1:4244", ServerName: n}
		}
		return all
	}
	cilium.SetAgents(agents("a", "b"))
	l := listen(t, "127.0.0.1:0")
	stop := serve(t, l, func(s *grpc.Server) { peerpb.RegisterPeerServer(s, Service{Table: cilium}) })
	follower := &Agents{
		Target: "passthrough:///" + l.Addr().String(), Credentials: func() credentials.TransportCredentials { return plain("") },
		Table: table, Log: quiet, Retry: 10 * time.Millisecond, Settle: 300 * time.Millisecond,
	}
	background(t, follower.Run)
	if got := await(t, table, "a", "b"); got["a"].ServerName != "a" {
		t.Errorf("passed on as %+v", got)
	}
	cilium.SetAgents(agents("a", "b", "c"))
	await(t, table, "a", "b", "c")
	cilium.SetAgents(agents("a", "b"))
	await(t, table, "a", "b")
	_, changed := table.Peers()
	stop()
	cilium.SetAgents(agents("b", "d"))
	serve(t, listen(t, l.Addr().String()), func(s *grpc.Server) { peerpb.RegisterPeerServer(s, Service{Table: cilium}) })
	// First it learns d and keeps a; a is forgotten only when it was not announced again.
	<-changed
	if now, _ := table.Peers(); now["a"].Name != "a" {
		t.Errorf("a was forgotten while the service was away: %v", now)
	}
	await(t, table, "b", "d")
}

// node is an observer that tells its name.
type node struct {
	observerpb.UnimplementedObserverServer
	name string
}

func (n node) GetNodes(context.Context, *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	return &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{{Name: n.name}}}, nil
}

// TestObserversAreFoundByTheirAddresses: each is announced by the name it tells, stays while its address does, and one of
// another cluster is none.
func TestObserversAreFoundByTheirAddresses(t *testing.T) {
	first := listen(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(first.Addr().String())
	stop := serve(t, first, func(s *grpc.Server) { observerpb.RegisterObserverServer(s, node{name: "c1/m-0"}) })
	for host, name := range map[string]string{"127.0.0.2": "c1/m-1", "127.0.0.3": "c9/m-0"} {
		serve(t, listen(t, net.JoinHostPort(host, port)), func(s *grpc.Server) { observerpb.RegisterObserverServer(s, node{name: name}) })
	}
	var mu sync.Mutex
	hosts, failure := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}, error(nil)
	set := func(h []string, err error) {
		mu.Lock()
		defer mu.Unlock()
		hosts, failure = h, err
	}
	looks := make(chan struct{})
	table := &Table{}
	o := &Observers{
		Places: []Place{{"c1", "meshpdb", port}}, Credentials: plain, TLS: true, Table: table, Log: quiet, Interval: time.Millisecond,
		Resolve: func(ctx context.Context, _ string) ([]string, error) {
			select {
			case looks <- struct{}{}:
			default:
			}
			mu.Lock()
			defer mu.Unlock()
			return hosts, failure
		},
	}
	background(t, o.Run)
	again := func() {
		// The second look begins when the first has ended.
		<-looks
		<-looks
	}
	got := await(t, table, "c1/m-0", "c1/m-1")
	if p := got["c1/m-0"]; p.Address != first.Addr().String() || p.ServerName != "meshpdb.c1.hubble-grpc.cilium.io" {
		t.Errorf("announced as %+v", p)
	}
	// One that does not answer, and a resolver that fails, take nobody away.
	stop()
	again()
	set(nil, errors.New("the resolver is away"))
	again()
	await(t, table, "c1/m-0", "c1/m-1")
	set([]string{"127.0.0.2"}, nil)
	await(t, table, "c1/m-1")
	set(nil, &net.DNSError{IsNotFound: true})
	await(t, table)
}

func TestParsePlaces(t *testing.T) {
	got, err := ParsePlaces("meshpdb-hubble.kube-system.svc:4244, c2=10.0.0.1:1", "c1")
	if want := []Place{{"c1", "meshpdb-hubble.kube-system.svc", "4244"}, {"c2", "10.0.0.1", "1"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "host", "=host:1", "c2=:1", "a:1,"} {
		if got, err := ParsePlaces(text, "c1"); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	if got, want := ServerName("hubble-peer", "eu.1"), "hubble-peer.eu-1.hubble-grpc.cilium.io"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
