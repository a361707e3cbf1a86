package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config of a Tracer.
type Config struct {
	// Endpoint is the host:port of an OTLP receiver, spoken to by gRPC without TLS, as
	// kube-apiserver does (TracingConfiguration). Empty: what OpenTelemetry's own
	// environment variables say, beginning with OTEL_EXPORTER_OTLP_ENDPOINT.
	Endpoint string
	// PerMillion is how many of a million requests are traced that come without a
	// trace; those that come with one follow its sampling. As kube-apiserver's
	// samplingRatePerMillion.
	PerMillion int
	// SamplerFromEnvironment leaves sampling to OTEL_TRACES_SAMPLER instead.
	SamplerFromEnvironment bool
	// Cluster is the own cluster's name in Cilium, Instance this replica's name.
	Cluster, Instance, Version string
}

// Tracer makes spans and sends them. It is safe for concurrent use.
type Tracer struct {
	provider   *sdktrace.TracerProvider
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
}

// New returns a tracer. It does not wait for the receiver: one that is not there
// costs spans, and no request anything. Shutdown must be called.
func New(ctx context.Context, c Config) (*Tracer, error) {
	if c.PerMillion < 0 || c.PerMillion > 1_000_000 {
		return nil, fmt.Errorf("sampling rate %d per million: must lie between 0 and 1000000", c.PerMillion)
	}
	if c.Cluster == "" || c.Instance == "" {
		return nil, errors.New("tracing: cluster and instance are required")
	}
	var to []otlptracegrpc.Option
	if c.Endpoint != "" {
		to = append(to, otlptracegrpc.WithEndpoint(c.Endpoint), otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, to...)
	if err != nil {
		return nil, fmt.Errorf("make OTLP exporter: %w", err)
	}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last, so that they win.
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "meshpdb-controller"), attribute.String("service.instance.id", c.Instance),
		attribute.String("service.version", c.Version), attribute.String("k8s.cluster.name", c.Cluster),
	), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe the process to the OTLP receiver: %w", err)
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)}
	if !c.SamplerFromEnvironment {
		options = append(options, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(c.PerMillion)/1e6))))
	}
	provider := sdktrace.NewTracerProvider(options...)
	return &Tracer{
		provider: provider, tracer: provider.Tracer("github.com/meshpdb/meshpdb"),
		// Baggage is nobody's business here.
		propagator: propagation.TraceContext{},
	}, nil
}

// Shutdown sends what is left, for as long as ctx allows.
func (t *Tracer) Shutdown(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// Incoming continues the trace of an HTTP request, if it has one.
func (t *Tracer) Incoming(ctx context.Context, r *http.Request) context.Context {
	return t.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
}

// Request is a question of the API server.
type Request struct {
	// Operation is of few values, such as "validate CREATE pods/eviction".
	Operation string
	// UID of the AdmissionReview, by which the API server's audit log can be found.
	UID, User       string
	Namespace, Name string
	DryRun          bool
}

// Response is what it was told.
type Response struct {
	Allowed bool
	// Code is the HTTP status, 0 if there is none.
	Code int32
	// Sentence says why.
	Sentence string
}

// Request begins the span of a request; the returned function ends it. A
// refusal is no error.
func (t *Tracer) Request(ctx context.Context, r Request) (context.Context, func(Response)) {
	ctx, span := t.tracer.Start(ctx, r.Operation, trace.WithSpanKind(trace.SpanKindServer))
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("k8s.namespace.name", r.Namespace), attribute.String("k8s.object.name", r.Name),
			attribute.String("meshpdb.review.uid", r.UID), attribute.String("enduser.id", r.User), attribute.Bool("meshpdb.dry_run", r.DryRun),
		)
	}
	return ctx, func(a Response) {
		if span.IsRecording() {
			span.SetAttributes(attribute.Bool("meshpdb.allowed", a.Allowed), attribute.String("meshpdb.sentence", a.Sentence))
			if a.Code != 0 {
				span.SetAttributes(attribute.Int("http.response.status_code", int(a.Code)))
			}
		}
		span.End()
	}
}

// Phase begins the span of a phase of a decision, or of what is done within it
// to one cluster; the returned function ends it, as an error if there was a problem.
func (t *Tracer) Phase(ctx context.Context, phase, cluster string) (context.Context, func(problem string)) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		// A decision that nobody traces, or a clean-up after one.
		return ctx, func(string) {}
	}
	kind := trace.SpanKindInternal
	if cluster != "" {
		kind = trace.SpanKindClient
	}
	ctx, span := t.tracer.Start(ctx, phase, trace.WithSpanKind(kind))
	if cluster != "" {
		span.SetAttributes(attribute.String("meshpdb.peer", cluster))
	}
	return ctx, func(problem string) {
		if problem != "" {
			span.SetStatus(codes.Error, problem)
		}
		span.End()
	}
}
