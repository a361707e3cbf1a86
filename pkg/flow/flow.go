package flow

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	pb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names by which a decision is found among other flows.
const (
	// Emitter is the name in a flow's emitter.
	Emitter = "meshpdb"
	// LabelSource is the source of the labels budget, reason, path and dry-run of what was to be disrupted:
	// hubble observe -l meshpdb:budget=db.
	LabelSource = "meshpdb"
	// NodeLabel selects all decisions: hubble observe --node-label app.kubernetes.io/name=meshpdb-controller.
	NodeLabel = "app.kubernetes.io/name=meshpdb-controller"
	// PolicyKind is the kind of the policies that allow or deny.
	PolicyKind = "MeshPodDisruptionBudget"
	// UserHeader holds who asked, as Kubernetes' authenticating proxies name that header.
	UserHeader = "X-Remote-User"
)

// accessLog is MessageTypeAccessLog of Cilium's pkg/monitor/api, which would bring a thousand packages along.
const accessLog = 129

// Node is the name under which a controller's decisions are shown.
func Node(cluster, controller string) string { return cluster + "/" + controller }

// Flow is the decision in Hubble's words.
func (d *Decision) Flow() *pb.Flow {
	f := d.flow()
	f.Extensions = d.extensions()
	return f
}

// parts are the messages that every flow has, allocated at once.
type parts struct {
	flow       pb.Flow
	time       timestamppb.Timestamp
	emitter    pb.Emitter
	event      pb.CiliumEventType
	isReply    wrapperspb.BoolValue
	ip         pb.IP
	l4         pb.Layer4
	tcp        pb.Layer4_TCP
	noPorts    pb.TCP
	l7         pb.Layer7
	record     pb.Layer7_Http
	http       pb.HTTP
	user       pb.HTTPHeader
	headers    [1]*pb.HTTPHeader
	log        [1]string
	nodeLabels [1]string
}

// flow is Flow without the extensions.
func (d *Decision) flow() *pb.Flow {
	p := &parts{nodeLabels: [1]string{NodeLabel}, log: [1]string{d.Reason}}
	p.time.Seconds, p.time.Nanos = d.Time.Unix(), int32(d.Time.Nanosecond())
	p.emitter.Name, p.emitter.Version = Emitter, d.Version
	p.event.Type = accessLog
	p.ip.Destination, p.ip.IpVersion = d.Object.IP, ipVersion(d.Object.IP)
	p.l4.Protocol, p.tcp.TCP = &p.tcp, &p.noPorts
	p.l7.Type, p.l7.LatencyNs, p.l7.Record, p.record.Http = pb.L7FlowType_REQUEST, uint64(max(0, d.Took)), &p.record, &p.http
	d.http(p)
	f := &p.flow
	f.Time, f.Uuid, f.Emitter = &p.time, d.Review, &p.emitter
	f.NodeName, f.NodeLabels = Node(d.Cluster, d.Controller), p.nodeLabels[:]
	f.Type, f.EventType, f.L7 = pb.FlowType_L7, &p.event, &p.l7
	f.TrafficDirection, f.IsReply = pb.TrafficDirection_INGRESS, &p.isReply
	// Without these the command line prints no names and the UI no flow.
	f.IP, f.L4 = &p.ip, &p.l4
	f.Source, f.Destination = d.source(), d.destination()
	f.PolicyLog = p.log[:]
	//lint:ignore SA1019 nothing else is printed in its place
	f.Summary = d.summary()
	if f.Source.PodName == "" {
		f.SourceService = &pb.Service{Namespace: f.Source.Namespace, Name: d.asker().name}
	}
	if f.Destination.PodName == "" {
		f.DestinationService = &pb.Service{Namespace: f.Destination.Namespace, Name: strings.ToLower(d.Object.Kind) + "/" + d.Object.Name}
	}
	d.judge(f)
	return f
}

func (d *Decision) judge(f *pb.Flow) {
	switch d.Verdict {
	case Allowed:
		f.Verdict, f.IngressAllowedBy = pb.Verdict_FORWARDED, d.policies()
	case Refused:
		f.Verdict, f.IngressDeniedBy, f.DropReasonDesc = pb.Verdict_DROPPED, d.policies(), pb.DropReason_POLICY_DENIED
	case Exempted:
		f.Verdict, f.IngressDeniedBy = pb.Verdict_AUDIT, d.policies()
	default:
		f.Verdict = pb.Verdict_ERROR
	}
}

func (d *Decision) policies() []*pb.Policy {
	if len(d.Budgets) == 0 {
		return nil
	}
	policies := make([]*pb.Policy, 0, len(d.Budgets))
	for _, b := range d.Budgets {
		policies = append(policies, &pb.Policy{Kind: PolicyKind, Namespace: b.Namespace, Name: b.Name, Revision: uint64(max(0, b.Generation))})
	}
	return policies
}

// asker is who asked.
type asker struct{ kind, namespace, name string }

const serviceAccount = "system:serviceaccount:"

func (d *Decision) asker() asker {
	if account, ok := strings.CutPrefix(oneLine(d.User), serviceAccount); ok {
		if namespace, name, ok := strings.Cut(account, ":"); ok {
			return asker{"ServiceAccount", namespace, name}
		}
	}
	return asker{"User", "", oneLine(d.User)}
}

func (d *Decision) source() *pb.Endpoint {
	who := d.asker()
	e := &pb.Endpoint{Namespace: who.namespace, Workloads: []*pb.Workload{{Kind: who.kind, Name: who.name}}}
	if who.kind == "ServiceAccount" {
		// People are in no cluster; who has a service account is in the one that knows it.
		e.ClusterName, e.PodName = d.Cluster, d.UserPod
		e.Labels = identityLabels(make([]string, 0, 3), d.Cluster, who.namespace, who.name)
	}
	return e
}

func (d *Decision) destination() *pb.Endpoint {
	o := &d.Object
	e := &pb.Endpoint{ClusterName: d.Cluster, Namespace: o.Namespace}
	// Those of the decision come before the others, because the UI shows the first ones.
	labels := d.labels(make([]string, 0, 6+len(o.Labels)))
	own := len(labels)
	if o.Resource == "pods" {
		e.PodName = o.Name
		if o.OwnerName != "" {
			e.Workloads = []*pb.Workload{{Kind: o.OwnerKind, Name: o.OwnerName}}
		}
		labels = identityLabels(labels, d.Cluster, o.Namespace, "")
	} else {
		e.Workloads = []*pb.Workload{{Kind: o.Kind, Name: o.Name}}
		if o.Kind == "Namespace" {
			e.Namespace = o.Name
		}
	}
	for key, value := range o.Labels {
		labels = append(labels, "k8s:"+key+"="+value)
	}
	slices.Sort(labels[own:])
	e.Labels = labels
	return e
}

// labels appends those of the decision itself. Values are such as a label selector may name, so budgets go without
// their namespace, which is the destination's.
func (d *Decision) labels(labels []string) []string {
	if len(d.Budgets) > 0 {
		labels = append(labels, LabelSource+":budget="+d.Budgets[0].Name)
	}
	labels = append(labels, LabelSource+":reason="+d.Reason, LabelSource+":path="+d.Path)
	if d.DryRun {
		labels = append(labels, LabelSource+":dry-run=true")
	}
	return labels
}

// identityLabels appends those that Cilium gives every pod.
func identityLabels(labels []string, cluster, namespace, account string) []string {
	labels = append(labels, "k8s:io.cilium.k8s.policy.cluster="+cluster, "k8s:io.kubernetes.pod.namespace="+namespace)
	if account != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.serviceaccount="+account)
	}
	return labels
}

func (d *Decision) http(p *parts) {
	p.user.Key, p.user.Value = UserHeader, oneLine(d.User)
	p.headers[0] = &p.user
	h, success := &p.http, uint32(200)
	h.Method, h.Url, h.Headers = "DELETE", d.Object.url(), p.headers[:]
	if d.Object.Eviction {
		h.Method, success = "POST", 201
	}
	h.Code = 429
	if d.Admitted {
		h.Code = success
	}
}

// url is the path that the request is made to.
func (o *Object) url() string {
	root := "/api/" + o.Version
	if o.Group != "" {
		root = "/apis/" + o.Group + "/" + o.Version
	}
	if o.Namespace != "" {
		root += "/namespaces/" + o.Namespace
	}
	root += "/" + o.Resource + "/" + o.Name
	if o.Eviction {
		root += "/eviction"
	}
	return root
}

// summary is what one line of the command line has room for: why, who asked, and where.
func (d *Decision) summary() string {
	name := d.Object.Name
	if d.Object.Namespace != "" {
		name = d.Object.Namespace + "/" + name
	}
	verb := "deletion"
	if d.Object.Eviction {
		verb = "eviction"
	}
	if d.DryRun {
		verb = "dry-run " + verb
	}
	return oneLine(d.Sentence) + " [" + verb + " of " + name + " in " + d.Cluster + ", asked for by " + cmp.Or(oneLine(d.User), "nobody known") + "]"
}

// maxSentence keeps an exported line far below the 64 KiB that hubble observe --input-file reads.
const maxSentence = 4000

// oneLine keeps what a caller may have put into his names from looking like
// other lines, or steering a terminal.
func oneLine(text string) string {
	if isPlain(text) {
		return text
	}
	if len(text) > maxSentence {
		text = text[:maxSentence] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// isPlain reports whether a text needs nothing done to it, as nearly all of them.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return len(text) <= maxSentence
}

func ipVersion(ip string) pb.IPVersion {
	switch {
	case ip == "":
		return pb.IPVersion_IP_NOT_USED
	case strings.Contains(ip, ":"):
		return pb.IPVersion_IPv6
	default:
		return pb.IPVersion_IPv4
	}
}
