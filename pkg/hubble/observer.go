package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	// Queue is how many decisions may wait for the observer.
	Queue int
	// Export receives every flow as a line of JSON, and is closed at the end; nil exports nothing.
	Export io.WriteCloser
	Log    *slog.Logger
}

// MaxCapacity is half of what a ring of Cilium holds: each flow takes two slots of it.
const MaxCapacity = 1<<15 - 1

// lossInterval is how often a loss is told while it lasts.
const lossInterval = time.Second

// Observer is a Hubble observer of decisions.
type Observer struct {
	observerpb.UnsafeObserverServer

	config Config
	node   string
	local  *observer.LocalObserverServer
	ring   *container.Ring
	export *exporter
	start  time.Time

	queue      chan flow.Decision
	namespaces namespace.Manager
	seen       atomic.Uint64
	lostTotal  atomic.Uint64

	mu   sync.Mutex
	lost flowpb.LostEvent // since it was told last
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
		config: c, node: flow.Node(c.Cluster, c.Controller), local: local, ring: local.GetRingBuffer(), start: time.Now(),
		queue: make(chan flow.Decision, c.Queue), namespaces: namespace.NewManager(),
	}
	if c.Export != nil {
		o.export = newExporter(c.Export, o.node, c.Log)
	}
	for range 2 {
		o.fill(timestamppb.New(o.start))
	}
	return o, nil
}

// withoutFillers keeps empty events out of a query, or they would count towards its limit.
func withoutFillers(ctx context.Context, r *observerpb.GetFlowsRequest) (context.Context, error) {
	r.Blacklist = append(r.Blacklist, &flowpb.FlowFilter{EventType: []*flowpb.EventTypeFilter{{Type: monitorapi.MessageTypeAgent}}})
	return ctx, nil
}

// Publish shows a decision soon, and returns at once. The caller leaves alone what it holds.
func (o *Observer) Publish(d flow.Decision) {
	select {
	case o.queue <- d:
	default:
		o.lose(d.Time)
	}
}

func (o *Observer) lose(at time.Time) {
	o.lostTotal.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	when := timestamppb.New(at)
	if o.lost.NumEventsLost == 0 {
		o.lost.First = when
	}
	o.lost.Last = when
	o.lost.NumEventsLost++
}

// Run shows what is published until ctx ends, and then what was published by then.
func (o *Observer) Run(ctx context.Context) error {
	w := &writer{Observer: o, told: time.Now()}
	for {
		select {
		case d := <-o.queue:
			w.take(d)
		case <-ctx.Done():
			w.drain()
			return o.export.close()
		}
	}
}

// writer is the only one that writes the ring.
type writer struct {
	*Observer
	last time.Time // of the newest flow
	told time.Time // when a loss was told
}

func (w *writer) take(d flow.Decision) {
	// Readers look backwards for the first older one, and the UI takes equal times for the same flow.
	if !d.Time.After(w.last) {
		d.Time = w.last.Add(1)
	}
	w.last = d.Time
	d.Cluster, d.Controller, d.Version = w.config.Cluster, w.config.Controller, w.config.Version
	f := d.Flow()
	for _, e := range []*flowpb.Endpoint{f.GetSource(), f.GetDestination()} {
		if e.GetNamespace() != "" {
			w.namespaces.AddNamespace(&observerpb.Namespace{Cluster: e.GetClusterName(), Namespace: e.GetNamespace()})
		}
	}
	w.seen.Add(1)
	w.write(&v1.Event{Timestamp: f.GetTime(), Event: f})
	w.export.flow(f)
	// Whoever comes to an empty queue tells it, and under a load that lasts it is told now and then.
	if len(w.queue) == 0 || time.Since(w.told) >= lossInterval {
		w.tellLoss()
	}
}

func (w *writer) drain() {
	for {
		select {
		case d := <-w.queue:
			w.take(d)
		default:
			w.tellLoss()
			return
		}
	}
}

func (w *writer) tellLoss() {
	w.mu.Lock()
	lost := &flowpb.LostEvent{
		Source: flowpb.LostEventSource_OBSERVER_EVENTS_QUEUE, NumEventsLost: w.lost.NumEventsLost, First: w.lost.First, Last: w.lost.Last,
	}
	w.lost.NumEventsLost = 0
	w.mu.Unlock()
	if lost.NumEventsLost == 0 {
		return
	}
	w.told = time.Now()
	at := timestamppb.New(w.last)
	w.write(&v1.Event{Timestamp: at, Event: lost})
	w.export.lost(at, lost)
	w.config.Log.Warn("decisions were not shown, the queue was full", "count", lost.NumEventsLost)
}

// write shows an event at once: behind it comes an empty one, which readers do not see.
func (o *Observer) write(e *v1.Event) {
	o.ring.Write(e)
	o.fill(e.Timestamp)
}

func (o *Observer) fill(at *timestamppb.Timestamp) {
	o.ring.Write(&v1.Event{Timestamp: at, Event: &flowpb.AgentEvent{}})
}
