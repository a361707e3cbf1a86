package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	v1 "github.com/cilium/cilium/pkg/hubble/api/v1"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/observer"
	"github.com/cilium/cilium/pkg/hubble/observer/namespace"
	"github.com/cilium/cilium/pkg/hubble/observer/observeroption"
	monitorapi "github.com/cilium/cilium/pkg/monitor/api"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

// Config of an Observer.
type Config struct {
	// Cluster and Controller name the observer: it is the node <cluster>/<controller>.
	Cluster, Controller string
	// Version is told as the observer's and as the emitter's.
	Version string
	// Capacity is how many decisions readers find at least: one less than a power of two, at
	// most MaxCapacity.
	Capacity int
	// Queue is how many decisions may wait for the export and for those who follow.
	Queue int
	// Export receives every flow as a line of JSON, and is closed at the end; nil exports nothing.
	Export io.WriteCloser
	Log    *slog.Logger
}

// MaxCapacity is half of what a ring of Cilium holds: each flow takes two slots of it.
const MaxCapacity = 1<<15 - 1

const (
	// lossInterval is how often a loss is told while it lasts.
	lossInterval = time.Second
	// gatherInterval is how long what follows a decision is gathered, so that a storm
	// wakes the writer a hundred times a second rather than with each.
	gatherInterval = 10 * time.Millisecond
	// chunk is how many entries are taken at once: a decision may have to wait while they
	// are copied, and processors are offered to others behind them.
	chunk = 32
)

// Observer is a Hubble observer of decisions.
type Observer struct {
	observerpb.UnsafeObserverServer

	config Config
	node   string
	local  *observer.LocalObserverServer
	ring   *container.Ring
	export *exporter

	recent     *recent
	namespaces namespace.Manager
	filler     *flowpb.AgentEvent
	// followers are the streams that want every flow as it comes.
	followers atomic.Int64
	// exportEnds is called when nothing is exported any more.
	exportEnds func()

	mu      sync.Mutex // of the ring's writer
	shown   uint64     // number of the first entry that is not in the ring
	scratch [chunk]entry
}

// New returns an observer that shows nothing until Run runs.
func New(c Config) (*Observer, error) {
	if c.Capacity > MaxCapacity {
		return nil, fmt.Errorf("make observer: a capacity of %d: must not be above %d", c.Capacity, MaxCapacity)
	}
	// Two slots a flow. A ring of 2^n-1 keeps one more slot, which is being written, so none is short.
	capacity, err := container.NewCapacity(2*c.Capacity + 1)
	if err != nil {
		return nil, fmt.Errorf("make observer: a capacity of %d: must be one less than a power of two", c.Capacity)
	}
	if c.Queue <= 0 {
		return nil, errors.New("make observer: the queue has no room")
	}
	// It writes no event here, so it needs no decoder, and the namespaces it would note are not asked for.
	local, err := observer.NewLocalServer(nil, namespace.NewManager(), c.Log,
		observeroption.WithMaxFlows(capacity),
		observeroption.WithMonitorBuffer(0),
		observeroption.WithLostEventSendInterval(lossInterval),
		observeroption.WithOnGetFlowsFunc(withoutFillers),
	)
	if err != nil {
		return nil, fmt.Errorf("make observer: %w", err)
	}
	o := &Observer{
		config: c, node: flow.Node(c.Cluster, c.Controller), local: local, ring: local.GetRingBuffer(),
		recent: newRecent(c.Capacity, c.Queue), namespaces: namespace.NewManager(), filler: &flowpb.AgentEvent{}, exportEnds: func() {},
	}
	if c.Export != nil {
		o.export = newExporter(c.Export, o.node, c.Log)
		o.exportEnds = o.recent.wait()
	}
	for range 2 {
		o.ring.Write(&v1.Event{Timestamp: timestamppb.New(time.Now()), Event: o.filler})
	}
	return o, nil
}

// withoutFillers keeps empty events out of a query, or they would count towards its limit.
func withoutFillers(ctx context.Context, r *observerpb.GetFlowsRequest) (context.Context, error) {
	r.Blacklist = append(r.Blacklist, &flowpb.FlowFilter{EventType: []*flowpb.EventTypeFilter{{Type: monitorapi.MessageTypeAgent}}})
	return ctx, nil
}

// Publish shows a decision soon, and returns at once. The caller leaves alone what it holds.
func (o *Observer) Publish(d flow.Decision) { o.recent.add(&d) }

// show puts what is recent into the ring. Whoever is about to read calls it, so
// that nothing is made of decisions that nobody looks at.
func (o *Observer) show() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		first, entries := o.recent.copyFrom(o.shown, o.scratch[:])
		for i := range entries {
			o.write(&entries[i])
		}
		o.shown = first + uint64(len(entries))
		if len(entries) < chunk {
			return
		}
		runtime.Gosched()
	}
}

// write writes an entry to the ring; the lock is held. It can be read at once: behind
// it comes an empty event, which readers do not see.
func (o *Observer) write(e *entry) {
	events := &[2]v1.Event{}
	if e.lost != nil {
		events[0] = v1.Event{Timestamp: timestamppb.New(e.decision.Time), Event: e.lost}
	} else {
		o.sign(&e.decision)
		f := e.decision.Flow()
		for _, end := range []*flowpb.Endpoint{f.Source, f.Destination} {
			if end.Namespace != "" {
				o.namespaces.AddNamespace(&observerpb.Namespace{Cluster: end.ClusterName, Namespace: end.Namespace})
			}
		}
		events[0] = v1.Event{Timestamp: f.Time, Event: f}
	}
	events[1] = v1.Event{Timestamp: events[0].Timestamp, Event: o.filler}
	o.ring.Write(&events[0])
	o.ring.Write(&events[1])
}

// sign says where a decision was made.
func (o *Observer) sign(d *flow.Decision) {
	d.Cluster, d.Controller, d.Version = o.config.Cluster, o.config.Controller, o.config.Version
}
