package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	webhookadmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/tracing"
)

// flushTimeout bounds how long the last spans keep the process.
const flushTimeout = 3 * time.Second

// setUpTracing returns nil unless tracing is configured.
func setUpTracing(ctx context.Context, mgr ctrl.Manager, o options) (*tracing.Tracer, error) {
	if !o.traced(os.Getenv) {
		return nil, nil
	}
	version, _ := versions()
	tracer, err := tracing.New(ctx, tracing.Config{
		Endpoint: o.tracingEndpoint, PerMillion: o.tracingRate, SamplerFromEnvironment: o.tracingRate == 0 && os.Getenv("OTEL_TRACES_SAMPLER") != "",
		Cluster: o.clusterName, Instance: controllerName(), Version: version,
	})
	if err != nil {
		return nil, err
	}
	return tracer, mgr.Add(everywhere{func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := tracer.Shutdown(ctx); err != nil {
			ctrl.Log.WithName("tracing").Error(err, "stop tracing")
		}
		return nil
	}})
}

// traced reports whether anybody wants spans.
func (o *options) traced(getenv func(string) string) bool {
	return o.tracingEndpoint != "" || getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// webhookOf serves a handler, within a span if there is a tracer.
func webhookOf(tracer *tracing.Tracer, name string, handler webhookadmission.Handler) http.Handler {
	if tracer == nil {
		return &webhookadmission.Webhook{Handler: handler}
	}
	return &webhookadmission.Webhook{Handler: traced{tracer, name, handler}, WithContextFunc: tracer.Incoming}
}

// traced is a handler within a span of each request.
type traced struct {
	tracer  *tracing.Tracer
	name    string
	handler webhookadmission.Handler
}

// Handle implements webhookadmission.Handler.
func (h traced) Handle(ctx context.Context, r webhookadmission.Request) webhookadmission.Response {
	resource := r.Resource.Resource
	if r.SubResource != "" {
		resource += "/" + r.SubResource
	}
	ctx, end := h.tracer.Request(ctx, tracing.Request{
		Operation: fmt.Sprintf("%s %s %s", h.name, r.Operation, resource), UID: string(r.UID), User: r.UserInfo.Username,
		Namespace: r.Namespace, Name: r.Name, DryRun: r.DryRun != nil && *r.DryRun,
	})
	response := h.handler.Handle(ctx, r)
	answer := tracing.Response{Allowed: response.Allowed}
	if response.Result != nil {
		answer.Code, answer.Sentence = response.Result.Code, response.Result.Message
	}
	end(answer)
	return response
}
