package paths

import (
	corev1 "k8s.io/api/core/v1"
)

// Facts are what the treatment of a controller's DELETE depends on beside who
// asks. They are read only for the paths that NodeMatters and OwnerMatters name.
type Facts struct {
	// Ready: the pod is ready; one that is not takes nothing from a budget.
	Ready bool
	// Node of the pod; nil if it does not exist.
	Node *corev1.Node
	// Tolerations of the pod.
	Tolerations []corev1.Toleration
	// Unselected: the DaemonSet no longer wants a pod on the node.
	Unselected bool
	// EnforcePreemption: the operator wants the scheduler held to budgets.
	EnforcePreemption bool
}

// Verdict is how one request is to be treated.
type Verdict struct {
	Treatment Treatment
	// Free: the pod takes nothing from the budget, so its claim is granted whatever the budget says.
	Free bool
	// Refuse says why the request is refused without a question; empty if it is not.
	Refuse string
	// RetryAfter is in seconds, for callers of which each request has a goroutine of its own: client-go sleeps inside them.
	RetryAfter int32
}

// preemptionRetryAfter keeps a refused preemptor from asking more than once in 5 s.
const preemptionRetryAfter = 10

// NodeMatters reports whether the pod's Node is among the facts of a path.
func NodeMatters(path Path) bool { return path == TaintEviction || path == DaemonSet }

// Judge says how a path is treated in the light of facts.
func Judge(path Path, f Facts) Verdict {
	v := Verdict{Treatment: Of(path).Treatment}
	switch path {
	case ReplicaSet, StatefulSet:
		v.Free = !f.Ready
	case DaemonSet:
		v.Free = !f.Ready
		if f.Unselected {
			v.Treatment = Account
		}
	case Preemption:
		if f.EnforcePreemption {
			v.Treatment, v.RetryAfter = Enforce, preemptionRetryAfter
		}
	case TaintEviction:
		return judgeTaint(f)
	}
	return v
}

// failing are the taints that Kubernetes itself puts on a node that has failed
// (pkg/controller/nodelifecycle), and that of an operator who says so.
var failing = []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeOutOfService}

// judgeTaint tells a node that failed from one that somebody wants empty.
func judgeTaint(f Facts) Verdict {
	if f.Node == nil || !NodeReady(f.Node) {
		return Verdict{Treatment: Account}
	}
	taint := EvictingTaint(f.Node.Spec.Taints, f.Tolerations)
	switch {
	case taint == nil:
		// The controller goes on for a while after a taint was removed.
		return Verdict{Treatment: Defer, Refuse: "node " + f.Node.Name + " has no NoExecute taint any more that the pod does not tolerate"}
	case Failing(taint.Key):
		return Verdict{Treatment: Account}
	}
	return Verdict{Treatment: Defer, Free: !f.Ready}
}

// Failing reports whether a taint stands for a node that has failed.
func Failing(key string) bool {
	for _, k := range failing {
		if k == key {
			return true
		}
	}
	return false
}

// NodeReady reports whether the node's Ready condition is True.
func NodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
