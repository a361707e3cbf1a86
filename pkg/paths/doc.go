// Package paths is the table of every way by which Kubernetes disrupts a pod:
// who asks for it, by which request, what meshpdb answers and what the caller
// makes of a refusal. Admission decides by the table, and docs/paths.md is
// generated from it.
//
// Who asks is judged by the authenticated user and by live facts, never by the
// pod's condition DisruptionTarget: it can be forged, and it outlives its cause
// by two minutes (stalePodDisruptionTimeout in pkg/controller/disruption).
package paths
