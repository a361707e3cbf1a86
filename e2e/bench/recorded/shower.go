package recorded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/hubble"
)

// shower is the flow pipeline in one setting; without an observer it is off.
type shower struct {
	observer *hubble.Observer
	reader   *reader
	before   outcome // that decisions were offered
	export   *counted
	dir      string
	stop     context.CancelFunc
	done     []chan error
}

// open starts the pipeline with a controller's defaults.
func (d *desk) open(ctx context.Context, s setting) (*shower, error) {
	w := &shower{}
	if !s.on {
		return w, nil
	}
	config := hubble.Config{Cluster: nameOf(0), Controller: "meshpdb-controller-1", Version: "bench", Capacity: 4095, Queue: 4095, Log: slog.New(slog.DiscardHandler)}
	if s.exported {
		var err error
		if w.dir, err = os.MkdirTemp("", "meshpdb-bench-"); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
		out, err := hubble.OpenExport(hubble.ExportConfig{Path: filepath.Join(w.dir, "flows.json"), MaxSizeMB: 10, MaxBackups: 5})
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(w.dir))
		}
		w.export = &counted{WriteCloser: out}
		config.Export = w.export
	}
	var err error
	if w.observer, err = hubble.New(config); err != nil {
		return nil, errors.Join(err, os.RemoveAll(w.dir))
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.run(func() error { return w.observer.Run(running) })
	if s.followed {
		if err := w.follow(running); err != nil {
			_, closing := w.close(ctx)
			return nil, errors.Join(err, closing)
		}
	}
	return w, nil
}

func (w *shower) run(run func() error) {
	done := make(chan error, 1)
	w.done = append(w.done, done)
	go func() { done <- run() }()
}

// follow serves the observer and follows it from this process, whole flows in plain text.
func (w *shower) follow(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	w.run(func() error {
		return hubble.Server{Listener: listener, Log: slog.New(slog.DiscardHandler)}.Serve(ctx, w.observer)
	})
	w.reader = &reader{}
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial observer: %w", err)
	}
	w.reader.connection = connection
	stream, err := observerpb.NewObserverClient(connection).GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true}, grpc.ForceCodec(undecoded{}))
	if err != nil {
		return fmt.Errorf("follow observer: %w", err)
	}
	w.run(func() error { w.reader.read(stream); return nil })
	// Nothing but a flow says that the server has begun to follow.
	err = w.settle(ctx, func() {
		if w.reader.flows.Load() == 0 {
			w.observer.Publish(flow.Decision{Time: time.Now()})
		}
	})
	w.before.shown, w.before.lost = counts(w.observer)
	w.before.followed = w.reader.flows.Load()
	if err == nil && w.before.followed == 0 {
		err = errors.New("follow observer: it shows nothing")
	}
	return err
}

// settle polls until nothing new has reached the reader for a while.
func (w *shower) settle(ctx context.Context, poll func()) error {
	const quiet, patience = 10, 10 * time.Second
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last, since := uint64(0), 0; since < quiet; since++ {
		if now := w.reader.flows.Load(); now != last || now == 0 {
			last, since = now, 0
		}
		poll()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("wait for the reader: not at rest after %s", patience)
		case <-tick.C:
		}
	}
	return nil
}

// close ends the pipeline when what was published has arrived.
func (w *shower) close(ctx context.Context) (o outcome, err error) {
	if w.observer == nil {
		return o, nil
	}
	o.shown, o.lost = counts(w.observer)
	if w.reader != nil && w.reader.connection != nil {
		err = w.settle(ctx, func() {})
		o.shown, o.lost, o.followed = o.shown-w.before.shown, o.lost-w.before.lost, w.reader.flows.Load()-w.before.followed
		err = errors.Join(err, w.reader.connection.Close())
	}
	w.stop()
	for _, done := range w.done {
		err = errors.Join(err, <-done)
	}
	if w.export != nil {
		o.exported = w.export.lines.Load()
		if w.reader != nil {
			o.exported -= min(o.exported, w.before.shown)
		}
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return o, err
}

// counts reads the metrics of an observer: how many decisions it has shown and lost.
func counts(o *hubble.Observer) (shown, lost uint64) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(o)
	families, err := registry.Gather()
	if err != nil {
		return 0, 0
	}
	for _, f := range families {
		switch n := uint64(f.GetMetric()[0].GetCounter().GetValue()); f.GetName() {
		case "meshpdb_hubble_flows_total":
			shown = n
		case "meshpdb_hubble_lost_events_total":
			lost = n
		}
	}
	return shown, lost
}

// reader counts what a stream sends. It does not decode flows: that is the work of other machines.
type reader struct {
	connection *grpc.ClientConn
	flows      atomic.Uint64
}

// undecoded leaves answers as they are.
type undecoded struct{}

func (undecoded) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

func (undecoded) Unmarshal(data []byte, v any) error {
	response := v.(*observerpb.GetFlowsResponse)
	for rest := data; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if number == flowField {
			response.NodeName = "flow"
			return nil
		}
		size := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		rest = rest[n+size:]
	}
	return proto.Unmarshal(data, response)
}

// flowField is the number of GetFlowsResponse.flow.
const flowField = 1

func (undecoded) Name() string { return "proto" }

func (r *reader) read(stream observerpb.Observer_GetFlowsClient) {
	for {
		response, err := stream.Recv()
		if err != nil {
			// It was closed.
			return
		}
		if response.GetLostEvents() == nil {
			r.flows.Add(1)
		}
	}
}

// counted counts the lines of an export.
type counted struct {
	io.WriteCloser
	lines atomic.Uint64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.WriteCloser.Write(p)
	c.lines.Add(uint64(bytes.Count(p[:n], []byte{'\n'})))
	return n, err
}
