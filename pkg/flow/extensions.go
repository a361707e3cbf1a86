package flow

import (
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// extensions hold the arithmetic. It must be a well-known type: readers that
// cannot resolve one end their whole stream.
func (d *Decision) extensions() *anypb.Any {
	fields := map[string]*structpb.Value{
		"path": text(d.Path), "reason": text(d.Reason), "sentence": text(d.Sentence), "user": text(d.User),
		"admitted": structpb.NewBoolValue(d.Admitted), "dryRun": structpb.NewBoolValue(d.DryRun),
	}
	if d.Object.UID != "" {
		fields["uid"] = text(d.Object.UID)
	}
	if len(d.Budgets) > 0 {
		fields["budget"] = text(d.Budgets[0].Namespace + "/" + d.Budgets[0].Name)
	}
	if a := d.Arithmetic; a.Verdict != budget.Invalid {
		fields["expected"], fields["desired"], fields["available"] = number(a.Expected), number(a.Desired), number(a.Available)
		fields["inFlight"], fields["left"], fields["cost"] = number(a.InFlight), number(a.Left), number(a.Cost)
		fields["disruptionsAllowed"] = number(a.Allowed())
		unread := make([]*structpb.Value, 0, len(a.Unread))
		for _, cluster := range a.Unread {
			unread = append(unread, text(cluster))
		}
		fields["unread"] = structpb.NewListValue(&structpb.ListValue{Values: unread})
	}
	extensions, err := anypb.New(&structpb.Struct{Fields: fields})
	if err != nil {
		// Only text that is no UTF-8 could not be encoded, and there is none.
		return nil
	}
	return extensions
}

func number(n int) *structpb.Value { return structpb.NewNumberValue(float64(n)) }

func text(s string) *structpb.Value { return structpb.NewStringValue(oneLine(s)) }
