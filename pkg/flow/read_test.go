package flow

import (
	"reflect"
	"testing"

	pb "github.com/cilium/cilium/api/v1/flow"
)

// TestRead: what a flow is made of comes out of it again.
func TestRead(t *testing.T) {
	undecided := refusal()
	undecided.Verdict, undecided.Budgets = Failed, []Budget{{Namespace: "prod", Name: "db"}}
	for name, d := range map[string]Decision{"refusal": refusal(), "warning": warning(), "undecided": undecided} {
		got, ok := Read(d.Flow())
		if !ok {
			t.Fatalf("%s is no decision", name)
		}
		want := d
		// Not in a flow, or as something that cannot be told from other things.
		want.Took, want.UserPod, want.Arithmetic = 0, "", got.Arithmetic
		want.Object = Object{Kind: d.Object.Kind, Namespace: d.Object.Namespace, Name: d.Object.Name, UID: d.Object.UID, Eviction: d.Object.Eviction}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s is\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

func TestReadsNoOtherFlows(t *testing.T) {
	d := refusal()
	other := d.Flow()
	other.Emitter.Name = "Hubble"
	bare := d.Flow()
	bare.Extensions = nil
	for name, f := range map[string]*pb.Flow{"none": nil, "packet": {}, "of another emitter": other, "without what was said": bare} {
		if got, ok := Read(f); ok {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}
