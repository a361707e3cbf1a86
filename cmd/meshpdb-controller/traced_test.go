package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	webhookadmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/tracing"
)

// otlp is a receiver of spans.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
}

func (o *otlp) Export(_ context.Context, q *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range q.ResourceSpans {
		for _, s := range r.ScopeSpans {
			for _, span := range s.Spans {
				o.names = append(o.names, span.Name)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// evicting makes one phase of every eviction, and refuses it.
type evicting struct{ tracer *tracing.Tracer }

func (e evicting) Handle(ctx context.Context, _ webhookadmission.Request) webhookadmission.Response {
	if e.tracer != nil {
		_, end := e.tracer.Phase(ctx, "AppendClaim", "")
		end("")
	}
	return webhookadmission.Denied("there is no room")
}

// review asks a webhook by HTTP, within a trace.
func askTraced(t *testing.T, webhook http.Handler) {
	t.Helper()
	server := httptest.NewServer(webhook)
	defer server.Close()
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "u", Operation: admissionv1.Create, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, SubResource: "eviction",
			Namespace: "n", Name: "db-0",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("traceparent", "00-abcd0000000000000000000000000001-1234000000000002-01")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer admissionv1.AdmissionReview
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer.Response == nil || answer.Response.Allowed || answer.Response.UID != "u" || answer.Response.Result.Message != "there is no room" {
		t.Errorf("got %+v", answer.Response)
	}
}

func TestARequestOfTheAPIServerIsTraced(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to, server := &otlp{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, to)
	serve(t, func(context.Context) error { return server.Serve(listener) })
	t.Cleanup(server.Stop)
	tracer, err := tracing.New(t.Context(), tracing.Config{Endpoint: listener.Addr().String(), Cluster: "c1", Instance: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	askTraced(t, webhookOf(tracer, "validate", evicting{tracer}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tracer.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(to.names, ", "); got != "AppendClaim, validate CREATE pods/eviction" {
		t.Errorf("spans: %s", got)
	}
}

// Without tracing the handler itself is served.
func TestNobodyIsTracedUnasked(t *testing.T) {
	webhook := webhookOf(nil, "validate", evicting{}).(*webhookadmission.Webhook)
	if _, bare := webhook.Handler.(evicting); !bare || webhook.WithContextFunc != nil {
		t.Errorf("%T is served", webhook.Handler)
	}
	askTraced(t, webhook)
	for variable, want := range map[string]bool{"": false, "OTEL_EXPORTER_OTLP_ENDPOINT": true, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": true, "OTEL_SERVICE_NAME": false} {
		o := defaults()
		getenv := func(name string) string {
			if name == variable {
				return "http://127.0.0.1:4317"
			}
			return ""
		}
		if got := o.traced(getenv); got != want {
			t.Errorf("%q: traced %t", variable, got)
		}
	}
}
