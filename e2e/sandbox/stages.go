package sandbox

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"
)

// UnreadyAnnotation makes a pod unready while it has the annotation, with any value. Removed, the pod is Ready again
// after a time drawn from Options.PodStart. A pod created with it does not become Ready. A node that has it keeps the
// conditions that somebody else writes, while its lease is still renewed.
const UnreadyAnnotation = "sandbox.meshpdb.io/unready"

// WorkingAnnotation keeps a Job's pod running, which would else succeed as soon as it is Ready.
const WorkingAnnotation = "sandbox.meshpdb.io/working"

// unreadyReason marks the Ready condition that UnreadyAnnotation caused, so that an unreadiness written by a test
// or by the node lifecycle controller is not undone.
const unreadyReason = "HeldUnready"

//go:embed stages/node.yaml
var nodeStages string

//go:embed stages/pod.yaml
var podStages string

// kwokConfig is kwok's configuration file: the life of nodes and pods.
//
// In kwok's Stage the jitter is not added to the delay but is the upper bound of it, and a jitter below the delay
// wins; so Range.Min and Range.Max can be passed as they are. A change of the pod during the delay draws it anew.
func kwokConfig(o Options) ([]byte, error) {
	stages, err := template.New("kwok.yaml").Delims("[[", "]]").Option("missingkey=error").Parse(nodeStages + "---\n" + podStages)
	if err != nil {
		return nil, fmt.Errorf("make kwok configuration: %w", err)
	}
	out := bytes.NewBuffer(nil)
	err = stages.Execute(out, map[string]any{
		"StartMin": o.PodStart.Min.Milliseconds(), "StartMax": o.PodStart.Max.Milliseconds(),
		"StopMin": o.PodStop.Min.Milliseconds(), "StopMax": o.PodStop.Max.Milliseconds(),
		"Unready": UnreadyAnnotation, "Reason": unreadyReason, "Working": WorkingAnnotation,
	})
	if err != nil {
		return nil, fmt.Errorf("make kwok configuration: %w", err)
	}
	return out.Bytes(), nil
}
