package flow

import (
	"slices"
	"strings"

	pb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/structpb"
)

// Read is the decision that a flow was made of, and false if it was made of none. What a flow
// does not hold is left out: the version of a resource, a pod's labels and owner, the arithmetic.
func Read(f *pb.Flow) (Decision, bool) {
	said := &structpb.Struct{}
	if f.GetEmitter().GetName() != Emitter || f.GetExtensions().UnmarshalTo(said) != nil {
		return Decision{}, false
	}
	fields := said.GetFields()
	d := Decision{
		Time: f.GetTime().AsTime(), Review: f.GetUuid(), Version: f.GetEmitter().GetVersion(), Verdict: verdictOf(f.GetVerdict()),
		Admitted: fields["admitted"].GetBoolValue(), DryRun: fields["dryRun"].GetBoolValue(),
		Reason: fields["reason"].GetStringValue(), Sentence: fields["sentence"].GetStringValue(), Path: fields["path"].GetStringValue(),
		User: fields["user"].GetStringValue(), Object: objectOf(f), Budgets: budgetsOf(f),
	}
	d.Cluster, d.Controller, _ = strings.Cut(f.GetNodeName(), "/")
	d.Object.UID = fields["uid"].GetStringValue()
	if len(d.Budgets) == 0 {
		// Of what nobody could decide, no policy allows or denies.
		if namespace, name, ok := strings.Cut(fields["budget"].GetStringValue(), "/"); ok {
			d.Budgets = []Budget{{Namespace: namespace, Name: name}}
		}
	}
	return d, true
}

func verdictOf(v pb.Verdict) Verdict {
	switch v {
	case pb.Verdict_FORWARDED:
		return Allowed
	case pb.Verdict_DROPPED:
		return Refused
	case pb.Verdict_AUDIT:
		return Exempted
	}
	return Failed
}

// objectOf is what was to be disrupted. A flow's endpoint has a pod's name, and else the object as its workload.
func objectOf(f *pb.Flow) Object {
	e := f.GetDestination()
	o := Object{Namespace: e.GetNamespace(), Eviction: f.GetL7().GetHttp().GetMethod() == "POST"}
	switch workloads := e.GetWorkloads(); {
	case e.GetPodName() != "":
		o.Kind, o.Name = "Pod", e.GetPodName()
	case len(workloads) > 0:
		o.Kind, o.Name = workloads[0].GetKind(), workloads[0].GetName()
	}
	return o
}

func budgetsOf(f *pb.Flow) []Budget {
	var all []Budget
	for _, p := range slices.Concat(f.GetIngressAllowedBy(), f.GetIngressDeniedBy()) {
		if p.GetKind() == PolicyKind {
			all = append(all, Budget{Namespace: p.GetNamespace(), Name: p.GetName(), Generation: int64(p.GetRevision())})
		}
	}
	return all
}
