package flow

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// field is one of the arithmetic.
type field struct {
	name   string
	kind   kind
	text   string
	number int
	list   []string
}

// kind says which value a field has.
type kind uint8

const (
	isText kind = iota
	isNumber
	isTrue
	isFalse
	isList
)

// arithmetic is what the extensions hold, by name.
func (d *Decision) arithmetic() (fields [16]field, n int) {
	add := func(f field) { fields[n] = f; n++ }
	text := func(name, value string) { add(field{name: name, text: oneLine(value)}) }
	number := func(name string, value int) { add(field{name: name, kind: isNumber, number: value}) }
	truth := func(name string, value bool) {
		if value {
			add(field{name: name, kind: isTrue})
		} else {
			add(field{name: name, kind: isFalse})
		}
	}
	truth("admitted", d.Admitted)
	if len(d.Budgets) > 0 {
		text("budget", d.Budgets[0].Namespace+"/"+d.Budgets[0].Name)
	}
	truth("dryRun", d.DryRun)
	text("path", d.Path)
	text("reason", d.Reason)
	text("sentence", d.Sentence)
	if d.Object.UID != "" {
		text("uid", d.Object.UID)
	}
	text("user", d.User)
	a := &d.Arithmetic
	if a.Verdict == budget.Invalid {
		return fields, n
	}
	number("available", a.Available)
	number("cost", a.Cost)
	number("desired", a.Desired)
	number("disruptionsAllowed", a.Allowed())
	number("expected", a.Expected)
	number("inFlight", a.InFlight)
	number("left", a.Left)
	add(field{name: "unread", kind: isList, list: a.Unread})
	return fields, n
}

const structURL = "type.googleapis.com/google.protobuf.Struct"

// extensions hold the arithmetic. It must be a well-known type: readers that
// cannot resolve one end their whole stream. Encoded field by field, because a
// Struct in memory takes longer to make than all the rest of a flow.
func (d *Decision) extensions() *anypb.Any {
	fields, n := d.arithmetic()
	size := 0
	for i := range n {
		size += protowire.SizeTag(1) + protowire.SizeBytes(fields[i].entrySize())
	}
	encoded := make([]byte, 0, size)
	for i := range n {
		f := &fields[i]
		encoded = appendLength(encoded, 1, f.entrySize()) // Struct.fields
		encoded = appendText(encoded, 1, f.name)
		encoded = appendLength(encoded, 2, f.valueSize())
		encoded = f.appendValue(encoded)
	}
	return &anypb.Any{TypeUrl: structURL, Value: encoded}
}

// entrySize is that of an entry of Struct.fields.
func (f *field) entrySize() int { return textSize(f.name) + 1 + protowire.SizeBytes(f.valueSize()) }

// valueSize is that of a google.protobuf.Value.
func (f *field) valueSize() int {
	switch f.kind {
	case isNumber:
		return 1 + protowire.SizeFixed64()
	case isTrue, isFalse:
		return 1 + protowire.SizeVarint(1)
	case isList:
		return 1 + protowire.SizeBytes(f.listSize())
	default:
		return textSize(f.text)
	}
}

// listSize is that of a google.protobuf.ListValue.
func (f *field) listSize() int {
	size := 0
	for _, text := range f.list {
		size += 1 + protowire.SizeBytes(textSize(oneLine(text)))
	}
	return size
}

func (f *field) appendValue(to []byte) []byte {
	switch f.kind {
	case isNumber:
		return protowire.AppendFixed64(protowire.AppendTag(to, 2, protowire.Fixed64Type), math.Float64bits(float64(f.number)))
	case isTrue, isFalse:
		return protowire.AppendVarint(protowire.AppendTag(to, 4, protowire.VarintType), protowire.EncodeBool(f.kind == isTrue))
	case isList:
		to = appendLength(to, 6, f.listSize())
		for _, text := range f.list {
			to = appendLength(to, 1, textSize(oneLine(text))) // ListValue.values
			to = appendText(to, 3, oneLine(text))
		}
		return to
	default:
		return appendText(to, 3, f.text)
	}
}

// textSize is that of a text in a field of a number below 16, as all are here.
func textSize(text string) int { return 1 + protowire.SizeBytes(len(text)) }

func appendText(to []byte, number protowire.Number, text string) []byte {
	return append(appendLength(to, number, len(text)), text...)
}

// appendLength begins a field of text or an encoded message.
func appendLength(to []byte, number protowire.Number, length int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.BytesType), uint64(length))
}
