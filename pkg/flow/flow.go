package flow

import (
	"cmp"
	"fmt"
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
	f := &pb.Flow{
		Time:             timestamppb.New(d.Time),
		Uuid:             d.Review,
		Emitter:          &pb.Emitter{Name: Emitter, Version: d.Version},
		NodeName:         Node(d.Cluster, d.Controller),
		NodeLabels:       []string{NodeLabel},
		Type:             pb.FlowType_L7,
		EventType:        &pb.CiliumEventType{Type: accessLog},
		TrafficDirection: pb.TrafficDirection_INGRESS,
		IsReply:          wrapperspb.Bool(false),
		// Without these the command line prints no names and the UI no flow.
		IP:          &pb.IP{Destination: d.Object.IP, IpVersion: ipVersion(d.Object.IP)},
		L4:          &pb.Layer4{Protocol: &pb.Layer4_TCP{TCP: &pb.TCP{}}},
		Source:      d.source(),
		Destination: d.destination(),
		L7: &pb.Layer7{
			Type: pb.L7FlowType_REQUEST, LatencyNs: uint64(max(0, d.Took)), Record: &pb.Layer7_Http{Http: d.http()},
		},
		PolicyLog: []string{d.Reason},
		//lint:ignore SA1019 nothing else is printed in its place
		Summary:    d.summary(),
		Extensions: d.extensions(),
	}
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
		e.Labels = identityLabels(d.Cluster, who.namespace, who.name)
	}
	return e
}

func (d *Decision) destination() *pb.Endpoint {
	o := &d.Object
	e := &pb.Endpoint{ClusterName: d.Cluster, Namespace: o.Namespace}
	var labels []string
	if o.Resource == "pods" {
		e.PodName = o.Name
		if o.OwnerName != "" {
			e.Workloads = []*pb.Workload{{Kind: o.OwnerKind, Name: o.OwnerName}}
		}
		labels = identityLabels(d.Cluster, o.Namespace, "")
	} else {
		e.Workloads = []*pb.Workload{{Kind: o.Kind, Name: o.Name}}
		if o.Kind == "Namespace" {
			e.Namespace = o.Name
		}
	}
	for key, value := range o.Labels {
		labels = append(labels, "k8s:"+key+"="+value)
	}
	slices.Sort(labels)
	// Before the others, because the UI shows the first ones.
	e.Labels = append(d.labels(), labels...)
	return e
}

// labels of the decision itself. Values are such as a label selector may name, so budgets go without
// their namespace, which is the destination's.
func (d *Decision) labels() []string {
	var labels []string
	if len(d.Budgets) > 0 {
		labels = append(labels, LabelSource+":budget="+d.Budgets[0].Name)
	}
	labels = append(labels, LabelSource+":reason="+d.Reason, LabelSource+":path="+d.Path)
	if d.DryRun {
		labels = append(labels, LabelSource+":dry-run=true")
	}
	return labels
}

// identityLabels are those that Cilium gives every pod.
func identityLabels(cluster, namespace, account string) []string {
	labels := []string{"k8s:io.cilium.k8s.policy.cluster=" + cluster, "k8s:io.kubernetes.pod.namespace=" + namespace}
	if account != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.serviceaccount="+account)
	}
	return labels
}

func (d *Decision) http() *pb.HTTP {
	h := &pb.HTTP{Method: "DELETE", Url: d.Object.url(), Headers: []*pb.HTTPHeader{{Key: UserHeader, Value: oneLine(d.User)}}}
	success := uint32(200)
	if d.Object.Eviction {
		h.Method, success = "POST", 201
	}
	h.Code = 429
	if d.Admitted {
		h.Code = success
	}
	return h
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
	return fmt.Sprintf("%s [%s of %s in %s, asked for by %s]", oneLine(d.Sentence), verb, name, d.Cluster, cmp.Or(oneLine(d.User), "nobody known"))
}

// maxSentence keeps an exported line far below the 64 KiB that hubble observe --input-file reads.
const maxSentence = 4000

// oneLine keeps what a caller may have put into his names from looking like
// other lines, or steering a terminal.
func oneLine(text string) string {
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
