package tracing_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/meshpdb/meshpdb/pkg/tracing"
)

// receiver is an OTLP receiver.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	spans    []*trace.Span
	resource []*common.KeyValue
}

func (r *receiver) Export(_ context.Context, q *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range q.ResourceSpans {
		r.resource = of.Resource.Attributes
		for _, s := range of.ScopeSpans {
			r.spans = append(r.spans, s.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// receive starts a receiver and returns its address.
func receive(t *testing.T) (*receiver, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, server := &receiver{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return r, listener.Addr().String()
}

func start(t *testing.T, c tracing.Config) *tracing.Tracer {
	t.Helper()
	c.Cluster, c.Instance, c.Version = "c1", "r1", "v1"
	tracer, err := tracing.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

func stop(t *testing.T, tracer *tracing.Tracer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tracer.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

func attributes(all []*common.KeyValue) string {
	var words []string
	for _, a := range all {
		value := a.Value.GetStringValue()
		switch a.Value.Value.(type) {
		case *common.AnyValue_BoolValue:
			value = fmt.Sprint(a.Value.GetBoolValue())
		case *common.AnyValue_IntValue:
			value = fmt.Sprint(a.Value.GetIntValue())
		}
		words = append(words, a.Key+"="+value)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// tree renders the spans, each below its parent.
func (r *receiver) tree() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	byParent := map[string][]*trace.Span{}
	known := map[string]bool{}
	for _, s := range r.spans {
		known[string(s.SpanId)] = true
	}
	for _, s := range r.spans {
		parent := string(s.ParentSpanId)
		if !known[parent] {
			parent = ""
		}
		byParent[parent] = append(byParent[parent], s)
	}
	var b strings.Builder
	var render func(parent, indent string)
	render = func(parent, indent string) {
		slices.SortFunc(byParent[parent], func(x, y *trace.Span) int {
			return strings.Compare(x.Name+attributes(x.Attributes), y.Name+attributes(y.Attributes))
		})
		for _, s := range byParent[parent] {
			fmt.Fprintf(&b, "%s%s %x<%x %s", indent, s.Name, s.TraceId[:2], s.ParentSpanId[:min(2, len(s.ParentSpanId))], attributes(s.Attributes))
			if s.Status.GetCode() == trace.Status_STATUS_CODE_ERROR {
				fmt.Fprintf(&b, " error: %s", s.Status.Message)
			}
			b.WriteByte('\n')
			render(string(s.SpanId), indent+"  ")
		}
	}
	render("", "")
	return b.String()
}

// header is the trace context of a request, sampled or not.
func header(flags string) *http.Request {
	r := &http.Request{Header: http.Header{}}
	r.Header.Set("traceparent", "00-abcd0000000000000000000000000001-1234000000000002-"+flags)
	return r
}

// decide does what a decision does to a tracer.
func decide(tracer *tracing.Tracer, r *http.Request) {
	ctx := tracer.Incoming(context.Background(), r)
	ctx, answer := tracer.Request(ctx, tracing.Request{Operation: "validate CREATE pods/eviction", UID: "u", User: "jane", Namespace: "n", Name: "db-0"})
	_, end := tracer.Phase(ctx, "AppendClaim", "")
	end("")
	reads, end := tracer.Phase(ctx, "ReadClusters", "")
	_, c1 := tracer.Phase(reads, "ReadCluster", "c1")
	_, c2 := tracer.Phase(reads, "ReadCluster", "c2")
	c2("its kvstore does not answer in time")
	c1("")
	end("")
	answer(tracing.Response{Code: 429, Sentence: "no room"})
}

func TestADecisionContinuesTheTraceOfItsRequest(t *testing.T) {
	to, address := receive(t)
	// None of its own, all those that are sampled elsewhere.
	tracer := start(t, tracing.Config{Endpoint: address})
	decide(tracer, header("01"))
	stop(t, tracer)
	lines := strings.Split(to.tree(), "\n")
	for i, want := range []string{
		"validate CREATE pods/eviction abcd<1234 enduser.id=jane http.response.status_code=429 k8s.namespace.name=n k8s.object.name=db-0 meshpdb.allowed=false meshpdb.dry_run=false meshpdb.review.uid=u meshpdb.sentence=no room",
		"  AppendClaim abcd<",
		"  ReadClusters abcd<",
		"    ReadCluster abcd<",
		"    ReadCluster abcd<",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d: want %q in\n%s", i, want, strings.Join(lines, "\n"))
		}
	}
	if len(lines) != 6 || !strings.HasSuffix(lines[3], " meshpdb.peer=c1") || !strings.HasSuffix(lines[4], " meshpdb.peer=c2 error: its kvstore does not answer in time") {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
	if about := attributes(to.resource); !strings.Contains(about, "k8s.cluster.name=c1 service.instance.id=r1 service.name=meshpdb-controller service.version=v1") {
		t.Errorf("the process is %s", about)
	}
}

func TestSampling(t *testing.T) {
	for name, c := range map[string]struct {
		config  tracing.Config
		request *http.Request
		spans   int
	}{
		"no trace, none are wanted":    {tracing.Config{}, &http.Request{}, 0},
		"no trace, all are wanted":     {tracing.Config{PerMillion: 1_000_000}, &http.Request{}, 5},
		"not sampled by the requester": {tracing.Config{PerMillion: 1_000_000}, header("00"), 0},
		"nonsense in the header":       {tracing.Config{}, &http.Request{Header: http.Header{"Traceparent": {"nonsense"}}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			to, address := receive(t)
			c.config.Endpoint = address
			tracer := start(t, c.config)
			decide(tracer, c.request)
			stop(t, tracer)
			if len(to.spans) != c.spans {
				t.Errorf("got\n%s, want %d spans", to.tree(), c.spans)
			}
		})
	}
}

// The variables that OpenTelemetry knows are enough.
func TestTheEnvironmentIsKnown(t *testing.T) {
	to, address := receive(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_SERVICE_NAME", "other")
	tracer := start(t, tracing.Config{SamplerFromEnvironment: true})
	decide(tracer, &http.Request{})
	stop(t, tracer)
	if about := attributes(to.resource); len(to.spans) != 5 || !strings.Contains(about, "service.name=other") {
		t.Errorf("%d spans of %s", len(to.spans), about)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]tracing.Config{
		"rate": {Cluster: "c1", Instance: "r1", PerMillion: 1_000_001}, "negative": {Cluster: "c1", Instance: "r1", PerMillion: -1}, "nobody": {},
	} {
		if _, err := tracing.New(t.Context(), c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
