package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/hubble"
)

// hubbleOptions have the names of Cilium's own flags.
type hubbleOptions struct {
	listen     string
	disableTLS bool
	certFile   string
	keyFile    string
	clientCAs  string
	capacity   int
	queue      int
	export     hubble.ExportConfig
}

func hubbleDefaults() hubbleOptions {
	return hubbleOptions{capacity: 4095, queue: 4095, export: hubble.ExportConfig{MaxSizeMB: 10, MaxBackups: 5}}
}

func (o *hubbleOptions) flags(f *flag.FlagSet) {
	f.StringVar(&o.listen, "hubble-listen-address", o.listen, "Address to serve decisions on as a Hubble observer; empty serves none")
	f.BoolVar(&o.disableTLS, "hubble-disable-tls", o.disableTLS, "Serve the observer in plain text and to everybody")
	f.StringVar(&o.certFile, "hubble-tls-cert-file", o.certFile, "Certificate of the observer, good for *.<cluster>.hubble-grpc.cilium.io as that of Cilium's agents")
	f.StringVar(&o.keyFile, "hubble-tls-key-file", o.keyFile, "Key of the observer's certificate")
	f.StringVar(&o.clientCAs, "hubble-tls-client-ca-files", o.clientCAs, "Authorities, separated by commas, of the certificates that the observer's clients must show, Relay above all")
	f.IntVar(&o.capacity, "hubble-event-buffer-capacity", o.capacity, fmt.Sprintf("How many decisions the observer keeps for its readers: one less than a power of two, at most %d", hubble.MaxCapacity))
	f.IntVar(&o.queue, "hubble-event-queue-size", o.queue, "How many decisions may wait to be shown and exported; what comes on top is lost and told as lost")
	f.StringVar(&o.export.Path, "hubble-export-file-path", o.export.Path, "File to which decisions are written as Hubble's flow log, or stdout; empty writes none")
	f.IntVar(&o.export.MaxSizeMB, "hubble-export-file-max-size-mb", o.export.MaxSizeMB, "Size in MB at which the file is put aside")
	f.IntVar(&o.export.MaxBackups, "hubble-export-file-max-backups", o.export.MaxBackups, "How many files put aside are kept")
}

func (o *hubbleOptions) enabled() bool { return o.listen != "" || o.export.Path != "" }

func (o *hubbleOptions) validate() error {
	secured := o.certFile != "" && o.keyFile != "" && o.clientCAs != ""
	switch {
	case o.listen != "" && !o.disableTLS && !secured:
		return errors.New("--hubble-listen-address: wants --hubble-tls-cert-file, --hubble-tls-key-file and --hubble-tls-client-ca-files, or --hubble-disable-tls")
	case o.listen != "" && o.disableTLS && o.certFile != "":
		return errors.New("--hubble-disable-tls: a certificate is given as well")
	case o.capacity < 1 || o.capacity > hubble.MaxCapacity || o.capacity&(o.capacity+1) != 0:
		return fmt.Errorf("--hubble-event-buffer-capacity %d: must be one less than a power of two, and at most %d", o.capacity, hubble.MaxCapacity)
	case o.queue < 1:
		return fmt.Errorf("--hubble-event-queue-size %d: must be above 0", o.queue)
	case o.export.MaxSizeMB < 1 || o.export.MaxBackups < 1:
		// 0 would keep all of them, until the disk is full.
		return errors.New("--hubble-export-file-max-size-mb and --hubble-export-file-max-backups: must be above 0")
	}
	return nil
}

func (o *hubbleOptions) tls() *hubble.TLS {
	if o.disableTLS {
		return nil
	}
	return &hubble.TLS{CertFile: o.certFile, KeyFile: o.keyFile, ClientCAFiles: strings.Split(o.clientCAs, ",")}
}

// display is what is told of answers, and shows them while it runs.
type display interface {
	admission.Sink
	run(context.Context)
}

// newDisplay shows decisions to Hubble, if that is wanted.
func newDisplay(o options) (display, error) {
	if !o.hubble.enabled() {
		return nowhere{}, nil
	}
	log := slog.New(logr.ToSlogHandler(ctrl.Log.WithName("hubble")))
	config := hubble.Config{
		Cluster: o.clusterName, Controller: controllerName(), Version: version(), Capacity: o.hubble.capacity, Queue: o.hubble.queue, Log: log,
	}
	if o.hubble.export.Path != "" {
		out, err := hubble.OpenExport(o.hubble.export)
		if err != nil {
			return nil, fmt.Errorf("--hubble-export-file-path: %w", err)
		}
		config.Export = out
	}
	observer, err := hubble.New(config)
	if err != nil {
		return nil, err
	}
	if err := metrics.Registry.Register(observer); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return &shown{observer: observer, options: o.hubble, log: log}, nil
}

// showing runs what answers while they are shown: what it answers last is shown as well.
func showing(ctx context.Context, d display, answer func(context.Context) error) error {
	shown, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.run(shown)
	}()
	err := answer(ctx)
	stop()
	<-done
	return err
}

// shown is the display of an observer.
type shown struct {
	observer *hubble.Observer
	options  hubbleOptions
	log      *slog.Logger
}

func (s *shown) Answered(a admission.Answer) { s.observer.Publish(a.Shown(time.Now())) }

func (s *shown) Intended(a admission.IntentAnswer) { s.observer.Publish(a.Shown(time.Now())) }

// serveRetry is the pause before the observer is served again.
const serveRetry = 5 * time.Second

// run logs what fails, and tries again: a controller that shows nothing still decides.
func (s *shown) run(ctx context.Context) {
	var serving sync.WaitGroup
	defer serving.Wait()
	if s.options.listen != "" {
		serving.Go(func() { s.serve(ctx) })
	}
	if err := s.observer.Run(ctx); err != nil {
		s.log.Error("show decisions", "error", err)
	}
}

func (s *shown) serve(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		if err := s.serveOnce(ctx); err != nil {
			s.log.Error("serve decisions, to be tried again", "error", err)
		}
		again.Reset(serveRetry)
	}
}

func (s *shown) serveOnce(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.options.listen)
	if err != nil {
		return fmt.Errorf("--hubble-listen-address: %w", err)
	}
	return hubble.Server{Listener: listener, TLS: s.options.tls(), Log: s.log}.Serve(ctx, s.observer)
}

// nowhere is the display where Hubble is off.
type nowhere struct{}

func (nowhere) Answered(admission.Answer)       {}
func (nowhere) Intended(admission.IntentAnswer) {}
func (nowhere) run(context.Context)             {}
