package hubble

import (
	"context"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// GetFlows answers hubble observe.
func (o *Observer) GetFlows(r *observerpb.GetFlowsRequest, stream observerpb.Observer_GetFlowsServer) error {
	if r.GetFollow() {
		// Before what is there is shown: what comes behind that is shown as it comes.
		o.followers.Add(1)
		defer o.followers.Add(-1)
		defer o.recent.wait()()
	}
	o.show()
	return o.local.GetFlows(r, named{stream, o.node})
}

// named gives losses the node's name, which LocalObserverServer takes from the machine.
type named struct {
	observerpb.Observer_GetFlowsServer
	node string
}

func (n named) Send(r *observerpb.GetFlowsResponse) error {
	if r.GetLostEvents() != nil {
		r.NodeName = n.node
	}
	return n.Observer_GetFlowsServer.Send(r)
}

// ServerStatus answers hubble status. Numbers are of flows, without the empty events between them.
func (o *Observer) ServerStatus(ctx context.Context, r *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	o.show()
	s, err := o.local.ServerStatus(ctx, r)
	if err != nil {
		return nil, err
	}
	s.Version = "meshpdb " + o.config.Version
	s.SeenFlows, _, _ = o.recent.counts()
	s.MaxFlows, s.NumFlows = uint64(o.config.Capacity), min(s.SeenFlows, uint64(o.config.Capacity))
	return s, nil
}

// GetNodes answers hubble list nodes without Relay, and tells the peer
// multiplexer this observer's name.
func (o *Observer) GetNodes(ctx context.Context, _ *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	s, err := o.ServerStatus(ctx, &observerpb.ServerStatusRequest{})
	if err != nil {
		return nil, err
	}
	return &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{{
		Name: o.node, Version: s.Version, State: relaypb.NodeState_NODE_CONNECTED,
		UptimeNs: s.UptimeNs, NumFlows: s.NumFlows, MaxFlows: s.MaxFlows, SeenFlows: s.SeenFlows,
	}}}, nil
}

// GetNamespaces answers hubble list namespaces: those of decisions that are kept, or
// that somebody has read. LocalObserverServer files them all under one cluster.
func (o *Observer) GetNamespaces(context.Context, *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	o.show()
	return &observerpb.GetNamespacesResponse{Namespaces: o.namespaces.GetNamespaces()}, nil
}

// GetAgentEvents refuses: what the ring has of them is empty.
func (o *Observer) GetAgentEvents(*observerpb.GetAgentEventsRequest, observerpb.Observer_GetAgentEventsServer) error {
	return status.Error(codes.Unimplemented, "meshpdb has no agent events")
}

// GetDebugEvents refuses, as GetAgentEvents does.
func (o *Observer) GetDebugEvents(*observerpb.GetDebugEventsRequest, observerpb.Observer_GetDebugEventsServer) error {
	return status.Error(codes.Unimplemented, "meshpdb has no debug events")
}
