package reader

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

// Decisions are what was found.
type Decisions struct {
	// All in the order in which they were found.
	All []flow.Decision
	// Lost is how many events its writer or the way there has lost, as they tell themselves.
	Lost uint64
}

// File reads a flow log: lines of JSON as exports and hubble observe -o jsonpb write
// them, which are the same for our purposes. Flows of others, and empty lines, are passed over; the
// error names the line that is no JSON.
func File(r io.Reader) (Decisions, error) {
	var found Decisions
	lines := bufio.NewReader(r)
	decoder := protojson.UnmarshalOptions{DiscardUnknown: true}
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return found, fmt.Errorf("read flows: %w", err)
		}
		last := err != nil
		// Others' flows may hold what cannot be decoded here.
		if bytes.Contains(line, []byte(`"`+flow.Emitter+`"`)) || bytes.Contains(line, []byte(`"lost_events"`)) {
			event := &observerpb.ExportEvent{}
			if err := decoder.Unmarshal(line, event); err != nil {
				return found, fmt.Errorf("read flows: line %d: %w", n, err)
			}
			found.Lost += event.GetLostEvents().GetNumEventsLost()
			if d, ok := flow.Read(event.GetFlow()); ok {
				found.All = append(found.All, d)
			}
		}
		if last {
			return found, nil
		}
	}
}
