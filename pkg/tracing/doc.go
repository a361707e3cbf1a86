// Package tracing follows a request through its decision, as OpenTelemetry
// spans: the request itself, the phases of the claim protocol, and within them
// the read of each cluster. It is the only package that knows OpenTelemetry.
//
// Nothing here is built unless tracing is configured. A request that comes with
// a W3C trace context, as a kube-apiserver sends it whose own tracing is on,
// continues that trace.
package tracing
