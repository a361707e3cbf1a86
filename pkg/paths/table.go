package paths

// Path is one way by which a pod is disrupted; its value is the label of metrics.
type Path string

// The paths that reach admission.
const (
	Eviction         Path = "eviction"
	Deletion         Path = "deletion"
	ReplicaSet       Path = "replicaset"
	StatefulSet      Path = "statefulset"
	DaemonSet        Path = "daemonset"
	Job              Path = "job"
	TaintEviction    Path = "taint"
	DeviceTaint      Path = "device-taint"
	Preemption       Path = "preemption"
	PodGC            Path = "pod-gc"
	Namespace        Path = "namespace"
	GarbageCollector Path = "garbage-collector"
	Kubelet          Path = "kubelet"
	ControlPlane     Path = "control-plane"
)

// Treatment is what a budget makes of a disruption.
type Treatment uint8

const (
	// Enforce: it is claimed and decided; what would break the budget is refused.
	Enforce Treatment = iota + 1
	// Defer: as Enforce, and the controller itself completes later what was
	// refused, since the caller gives up.
	Defer
	// Account: it goes whatever the budget says, and is counted and told of.
	Account
	// Skip: nothing is disrupted any more, or never was.
	Skip
)

// String returns the treatment in lower case.
func (t Treatment) String() string {
	switch t {
	case Enforce:
		return "enforced"
	case Defer:
		return "enforced, completed later"
	case Account:
		return "let through and accounted"
	case Skip:
		return "let through"
	default:
		return "invalid"
	}
}

// Row says what an operator should know of a path.
type Row struct {
	Path Path
	// What disrupts the pod, and the request that reaches admission.
	What, Request string
	// Treatment of a pod that is available; Unless says when it is another one.
	Treatment Treatment
	Unless    string
	// Refused says what the caller does when it is refused.
	Refused string
}

// Table holds a row for each path that reaches admission.
var Table = []Row{
	{
		Path: Eviction, What: "the Eviction API: `kubectl drain`, cluster-autoscaler, Karpenter, descheduler, VPA", Request: "CREATE pods/eviction",
		Treatment: Enforce, Unless: "the pod is terminating, has ended, was never started or is a mirror: let through; it is not ready and unhealthyPodEvictionPolicy is AlwaysAllow: claimed and let through",
		Refused: "`kubectl drain` tries again every 5 s until its --timeout; autoscalers try again within seconds",
	},
	{
		Path: Deletion, What: "a person or a tool: `kubectl delete pod`, `--force`, `drain --disable-eviction`, deletecollection, forced drains of autoscalers", Request: "DELETE pods, one review for each pod",
		Treatment: Enforce, Unless: "as for evictions; the namespace is terminating: let through and accounted",
		Refused: "kubectl prints the refusal and stops; deletecollection stops at the first refusal, in the order of names",
	},
	{
		Path: ReplicaSet, What: "the ReplicaSet or ReplicationController controller: rollouts of Deployments, scaling down", Request: "DELETE pods",
		Treatment: Enforce, Unless: "the pod is not ready: claimed and let through, so that a broken rollout can be repaired; the namespace is terminating: let through and accounted",
		Refused: "it backs off, for up to 1000 s; meshpdb kicks it as soon as budget frees. A rollout stands above its maxSurge meanwhile, and goes on as far as pods beyond its scale stand in for old ones",
	},
	{
		Path: StatefulSet, What: "the StatefulSet controller: rolling updates, scaling down", Request: "DELETE pods",
		Treatment: Enforce, Unless: "as for ReplicaSets",
		Refused: "it backs off, for up to 1000 s; meshpdb kicks it as soon as budget frees",
	},
	{
		Path: DaemonSet, What: "the DaemonSet controller: rolling updates, nodes that it no longer selects", Request: "DELETE pods",
		Treatment: Enforce, Unless: "as for ReplicaSets; the DaemonSet does not select the pod's node any more: let through and accounted",
		Refused: "it backs off, for up to 1000 s; meshpdb kicks it as soon as budget frees",
	},
	{
		Path: TaintEviction, What: "the taint eviction controller, for NoExecute taints that the pod does not tolerate", Request: "DELETE pods",
		Treatment: Defer, Unless: "the node is gone or not ready, or the taint is node.kubernetes.io/not-ready, unreachable or out-of-service: let through and accounted, for its replacement depends on it",
		Refused: "it tries five times within two seconds and gives up for good; meshpdb evicts the pod when budget frees, as long as the taint is there",
	},
	{
		Path: DeviceTaint, What: "the device taint eviction controller (DRA)", Request: "DELETE pods",
		Treatment: Account,
		Refused:   "never refused: a device that failed cannot be given back",
	},
	{
		Path: Preemption, What: "the scheduler, which preempts pods for one of higher priority", Request: "DELETE pods",
		Treatment: Account, Unless: "--preemption=Enforce: enforced",
		Refused: "it would try again at once, many times a second; refusals therefore carry Retry-After, which holds each preemptor back for 10 s",
	},
	{
		Path: Job, What: "the Job, CronJob and TTL-after-finished controllers", Request: "DELETE pods",
		Treatment: Account,
		Refused:   "never refused: the Job controller takes its finalizer off a pod before it deletes it, and would lose count",
	},
	{
		Path: PodGC, What: "the pod garbage collector, after a Node was deleted", Request: "DELETE pods, with their phase set to Failed before",
		Treatment: Skip,
		Refused:   "never refused: the disruption has happened. Deleting the Node is the moment to warn: see deletionProtection",
	},
	{
		Path: Namespace, What: "the namespace controller", Request: "DELETE pods, one review for each pod",
		Treatment: Account,
		Refused:   "never refused: everything else in the namespace would be deleted around the pods. Deleting the namespace is the moment to warn: see deletionProtection",
	},
	{
		Path: GarbageCollector, What: "the garbage collector, after a pod's owner was deleted", Request: "DELETE pods",
		Treatment: Account,
		Refused:   "never refused: it backs off, for up to 1000 s, and nothing wakes it. Deleting the owner is the moment to warn: see deletionProtection",
	},
	{
		Path: Kubelet, What: "the kubelet: the last deletion of every pod, its mirror pods", Request: "DELETE pods, with grace period 0",
		Treatment: Skip,
		Refused:   "never refused: pods would stay Terminating. The webhook's matchConditions keep these away even while meshpdb is down",
	},
	{
		Path: ControlPlane, What: "another component of the control plane, or kube-controller-manager without --use-service-account-credentials, where controllers cannot be told apart", Request: "DELETE pods",
		Treatment: Account,
		Refused:   "never refused",
	},
}

// Of returns the row of a path.
func Of(path Path) Row {
	for _, row := range Table {
		if row.Path == path {
			return row
		}
	}
	return Row{Path: path, What: string(path), Treatment: Enforce}
}

// Uncovered are disruptions that no admission webhook sees or could hold up.
// They count as soon as a pod stops being ready.
var Uncovered = []struct{ What, Why string }{
	{"node-pressure eviction, local storage limits, preemption by the kubelet for critical pods, activeDeadlineSeconds", "the kubelet kills first and writes the pod's status afterwards; there is no eviction and no DELETE"},
	{"graceful node shutdown", "as above; the node's Ready condition is the only sign before"},
	{"a node that dies or cannot be reached", "its pods lose readiness after the node monitor's grace period; the later DELETE is let through"},
	{"containers that crash, are killed for memory, or restart in place (resize with restart, a patched image, container restart rules)", "the pod object stays; readiness tells"},
	{"changes that take a pod out of service without deleting it: labels that the Service no longer selects, a readiness gate, a network policy", "no request of theirs is a disruption; the pods stop counting as available"},
	{"writes to pods/status by whoever may", "a forged status is a matter of RBAC"},
	{"an API server without the webhook configuration, or with --disable-admission-plugins", "nobody asks meshpdb then"},
}
