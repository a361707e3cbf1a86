package flow

import (
	"encoding/json"
	"strconv"
	"time"

	pb "github.com/cilium/cilium/api/v1/flow"
)

// AppendLine appends the decision's flow as a line of Hubble's flow log, an ExportEvent.
func (d *Decision) AppendLine(to []byte) []byte {
	w := writer{d.appendJSON(append(to, `{"flow":`...))}
	w.text("node_name", Node(d.Cluster, d.Controller))
	w.key("time")
	w.time(d.Time)
	w.close('}')
	return append(w.to, '\n')
}

// appendJSON appends the decision's flow as protojson would write it, with the
// names of the .proto file. That takes an order of magnitude less than by
// reflection, and what is written is the same: whatever Flow fills, a test holds
// against protojson.
func (d *Decision) appendJSON(to []byte) []byte {
	f := d.flow()
	w := writer{to}
	w.open('{')
	w.key("time")
	w.time(f.Time.AsTime())
	w.text("uuid", f.Uuid)
	w.key("emitter")
	w.open('{')
	w.text("name", f.Emitter.Name)
	w.text("version", f.Emitter.Version)
	w.close('}')
	w.enum("verdict", int32(f.Verdict), pb.Verdict_name)
	w.key("IP")
	w.open('{')
	w.text("destination", f.IP.Destination)
	w.enum("ipVersion", int32(f.IP.IpVersion), pb.IPVersion_name)
	w.close('}')
	w.raw("l4", `{"TCP":{}}`)
	w.endpoint("source", f.Source)
	w.endpoint("destination", f.Destination)
	w.enum("Type", int32(f.Type), pb.FlowType_name)
	w.text("node_name", f.NodeName)
	w.texts("node_labels", f.NodeLabels)
	w.http(f.L7)
	w.raw("event_type", `{"type":`+strconv.Itoa(accessLog)+`}`)
	w.service("source_service", f.SourceService)
	w.service("destination_service", f.DestinationService)
	w.enum("traffic_direction", int32(f.TrafficDirection), pb.TrafficDirection_name)
	w.enum("drop_reason_desc", int32(f.DropReasonDesc), pb.DropReason_name)
	w.raw("is_reply", `false`)
	//lint:ignore SA1019 nothing else is printed in its place
	w.text("Summary", f.Summary)
	w.extensions(d)
	w.policies("ingress_allowed_by", f.IngressAllowedBy)
	w.policies("ingress_denied_by", f.IngressDeniedBy)
	w.texts("policy_log", f.PolicyLog)
	w.close('}')
	return w.to
}

// appendQuoted appends a text, quoted.
func appendQuoted(to []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			// What must be escaped, and how, is not worth knowing twice. A string has no error.
			quoted, _ := json.Marshal(text)
			return append(to, quoted...)
		}
	}
	to = append(to, '"')
	to = append(to, text...)
	return append(to, '"')
}

// writer writes objects and lists. As in protojson, what is empty is left out.
type writer struct{ to []byte }

func (w *writer) open(bracket byte) { w.to = append(w.to, bracket) }

func (w *writer) close(bracket byte) { w.to = append(w.to, bracket) }

// comma separates from what is before, unless that has only begun.
func (w *writer) comma() {
	if last := w.to[len(w.to)-1]; last != '{' && last != '[' {
		w.to = append(w.to, ',')
	}
}

func (w *writer) key(name string) {
	w.comma()
	w.to = append(w.to, '"')
	w.to = append(w.to, name...)
	w.to = append(w.to, '"', ':')
}

func (w *writer) raw(name, value string) {
	w.key(name)
	w.to = append(w.to, value...)
}

func (w *writer) text(name, value string) {
	if value != "" {
		w.key(name)
		w.to = appendQuoted(w.to, value)
	}
}

func (w *writer) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	w.key(name)
	w.list(len(values), func(i int) { w.to = appendQuoted(w.to, values[i]) })
}

// list writes so many items.
func (w *writer) list(n int, item func(i int)) {
	w.open('[')
	for i := range n {
		w.comma()
		item(i)
	}
	w.close(']')
}

func (w *writer) enum(name string, value int32, names map[int32]string) {
	if value != 0 {
		w.text(name, names[value])
	}
}

// number of 64 bits, which JSON has as text.
func (w *writer) number(name string, value uint64) {
	if value != 0 {
		w.key(name)
		w.to = append(w.to, '"')
		w.to = strconv.AppendUint(w.to, value, 10)
		w.to = append(w.to, '"')
	}
}

func (w *writer) time(at time.Time) {
	w.to = append(w.to, '"')
	w.to = at.UTC().AppendFormat(w.to, time.RFC3339Nano)
	w.to = append(w.to, '"')
}

func (w *writer) endpoint(name string, e *pb.Endpoint) {
	w.key(name)
	w.open('{')
	w.text("cluster_name", e.ClusterName)
	w.text("namespace", e.Namespace)
	w.texts("labels", e.Labels)
	w.text("pod_name", e.PodName)
	if len(e.Workloads) > 0 {
		w.key("workloads")
		w.list(len(e.Workloads), func(i int) {
			w.open('{')
			w.text("name", e.Workloads[i].Name)
			w.text("kind", e.Workloads[i].Kind)
			w.close('}')
		})
	}
	w.close('}')
}

func (w *writer) service(name string, s *pb.Service) {
	if s == nil {
		return
	}
	w.key(name)
	w.open('{')
	w.text("name", s.Name)
	w.text("namespace", s.Namespace)
	w.close('}')
}

func (w *writer) http(l *pb.Layer7) {
	h := l.GetHttp()
	w.key("l7")
	w.open('{')
	w.enum("type", int32(l.Type), pb.L7FlowType_name)
	w.number("latency_ns", l.LatencyNs)
	w.raw("http", `{"code":`)
	w.to = strconv.AppendUint(w.to, uint64(h.Code), 10)
	w.text("method", h.Method)
	w.text("url", h.Url)
	w.key("headers")
	w.list(len(h.Headers), func(i int) {
		w.open('{')
		w.text("key", h.Headers[i].Key)
		w.text("value", h.Headers[i].Value)
		w.close('}')
	})
	w.close('}')
	w.close('}')
}

func (w *writer) policies(name string, policies []*pb.Policy) {
	if len(policies) == 0 {
		return
	}
	w.key(name)
	w.list(len(policies), func(i int) {
		p := policies[i]
		w.open('{')
		w.text("name", p.Name)
		w.text("namespace", p.Namespace)
		w.number("revision", p.Revision)
		w.text("kind", p.Kind)
		w.close('}')
	})
}

func (w *writer) extensions(d *Decision) {
	fields, n := d.arithmetic()
	w.raw("extensions", `{"@type":"`+structURL+`","value":`)
	w.open('{')
	for i := range n {
		f := &fields[i]
		w.key(f.name)
		switch f.kind {
		case isNumber:
			w.to = strconv.AppendInt(w.to, int64(f.number), 10)
		case isTrue, isFalse:
			w.to = strconv.AppendBool(w.to, f.kind == isTrue)
		case isList:
			w.list(len(f.list), func(i int) { w.to = appendQuoted(w.to, oneLine(f.list[i])) })
		default:
			w.to = appendQuoted(w.to, f.text)
		}
	}
	w.close('}')
	w.close('}')
}
