package admission

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// Shown is the answer as Hubble is to show it. Where it came from is left to the caller.
func (a *Answer) Shown(now time.Time) flow.Decision {
	d := flow.Decision{
		Time: now, Took: a.Took, Review: string(a.Review), Verdict: a.verdict(), Admitted: a.Allowed, Reason: reason(*a),
		Sentence: a.Sentence, Path: string(a.Path), DryRun: a.DryRun, User: a.User, UserPod: a.UserPod,
		Object: podObject(a), Arithmetic: a.Outcome.Decision,
	}
	if len(a.Budgets) > 0 {
		d.Budgets = make([]flow.Budget, 0, len(a.Budgets))
	}
	for i := range a.Budgets {
		b := flow.Budget{Namespace: a.Budgets[i].Namespace, Name: a.Budgets[i].Name, Generation: a.Budgets[i].Generation}
		if d.Budgets = append(d.Budgets, b); nameOf(a.Budgets[i]) == a.Budget {
			d.Budgets[0], d.Budgets[i] = d.Budgets[i], d.Budgets[0]
		}
	}
	return d
}

func (a *Answer) verdict() flow.Verdict {
	switch {
	case a.BrokenGlass:
		return flow.Exempted
	case a.Allowed:
		return flow.Allowed
	case reason(*a) == undecided:
		return flow.Failed
	default:
		return flow.Refused
	}
}

func podObject(a *Answer) flow.Object {
	o := flow.Object{
		Version: "v1", Resource: "pods", Kind: "Pod", Namespace: a.Pod.Namespace, Name: a.Pod.Name, UID: string(a.Pod.UID),
		Eviction: a.Path == paths.Eviction, IP: a.Pod.Status.PodIP, Labels: a.Pod.Labels,
	}
	o.OwnerKind, o.OwnerName = ownerOf(a.Pod)
	return o
}

// ownerOf is the workload of a pod as Cilium names it (pkg/k8s/utils/workload.go): the
// Deployment rather than its ReplicaSet.
func ownerOf(pod *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return "", ""
	}
	if hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; owner.Kind == "ReplicaSet" && hash != "" {
		if deployment, ok := strings.CutSuffix(owner.Name, "-"+hash); ok {
			return "Deployment", deployment
		}
	}
	return owner.Kind, owner.Name
}

// IntentPath stands for the paths of package paths in what is shown of an IntentAnswer.
const IntentPath = "intent"

// Shown is the answer as Hubble is to show it. Where it came from is left to the caller.
func (a *IntentAnswer) Shown(now time.Time) flow.Decision {
	group := schema.FromAPIVersionAndKind(a.Object.APIVersion, a.Object.Kind)
	d := flow.Decision{
		Time: now, Review: string(a.Review), Admitted: a.Verdict != IntentRefused, Path: IntentPath, DryRun: a.DryRun, User: a.User, UserPod: a.UserPod,
		Object: flow.Object{
			Group: group.Group, Version: group.Version, Resource: strings.ToLower(a.Object.Kind) + "s", Kind: a.Object.Kind,
			Namespace: a.Object.Namespace, Name: a.Object.Name, UID: string(a.Object.UID),
		},
		Sentence: cmp.Or(a.Sentence, fmt.Sprintf("deleting %s %s is no disruption that a budget could prevent", strings.ToLower(a.Object.Kind), a.Object.Name)),
	}
	losses := a.Budgets
	if a.Verdict == IntentRefused {
		losses = denying(losses)
	}
	for _, l := range losses {
		d.Budgets = append(d.Budgets, flow.Budget{Namespace: l.Budget.Namespace, Name: l.Budget.Name, Generation: l.Budget.Generation})
	}
	switch a.Verdict {
	case IntentAdmitted:
		d.Verdict, d.Reason = flow.Allowed, "Admitted"
	case IntentWarned:
		d.Verdict, d.Reason = flow.Exempted, "Warned"
	case IntentRefused:
		d.Verdict, d.Reason = flow.Refused, "Refused"
	default:
		d.Verdict, d.Reason = flow.Failed, undecided
	}
	return d
}
