package v1alpha1

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// MeshPodDisruptionBudget limits how many pods of a service may be disrupted
// at the same time, over all clusters of a ClusterMesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=mpdb,categories=all
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Allowed",type=integer,JSONPath=`.status.disruptionsAllowed`
// +kubebuilder:printcolumn:name="Available",type=integer,JSONPath=`.status.currentHealthy`
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.status.desiredHealthy`
// +kubebuilder:printcolumn:name="Expected",type=integer,JSONPath=`.status.expectedPods`
// +kubebuilder:printcolumn:name="In Flight",type=integer,JSONPath=`.status.disruptionsInFlight`
// +kubebuilder:printcolumn:name="Clusters",type=string,JSONPath=`.status.clustersReachable`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Service",type=string,priority=1,JSONPath=`.spec.service`
// +kubebuilder:printcolumn:name="Min Available",type=string,priority=1,JSONPath=`.spec.minAvailable`
// +kubebuilder:printcolumn:name="Max Unavailable",type=string,priority=1,JSONPath=`.spec.maxUnavailable`
// +kubebuilder:printcolumn:name="Waiting",type=integer,priority=1,JSONPath=`.status.waitingDisruptions`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="DisruptionAllowed")].message`
type MeshPodDisruptionBudget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec MeshPodDisruptionBudgetSpec `json:"spec"`
	// +optional
	Status MeshPodDisruptionBudgetStatus `json:"status,omitempty"`
}

// MeshPodDisruptionBudgetSpec says which pods are covered and how many of them
// must stay, counted over the whole mesh.
//
// +kubebuilder:validation:XValidation:rule="has(self.minAvailable) != has(self.maxUnavailable)",message="exactly one of minAvailable and maxUnavailable must be set"
type MeshPodDisruptionBudgetSpec struct {
	// service is the name of the Service, in the budget's namespace, that selects
	// the pods in each cluster. It needs a selector. It cannot be changed: make
	// another budget instead.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="service is immutable: delete this budget and create another one"
	Service string `json:"service"`

	// minAvailable is how many pods of the whole mesh must stay available: a
	// number, or a percentage of the expected pods, rounded up. A number can be
	// judged without a cluster that is unreachable, whose pods then count as
	// unavailable.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 1000000 : self.matches('^(100|[0-9]{1,2})%$')",message="minAvailable must be a number of pods, 0 or more, or a percentage from 0% to 100%"
	MinAvailable *intstr.IntOrString `json:"minAvailable,omitempty"`

	// maxUnavailable is how many pods of the whole mesh may be unavailable: a
	// number, or a percentage of the expected pods, rounded up. It can be judged
	// only while every cluster in scope can be read.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 1000000 : self.matches('^(100|[0-9]{1,2})%$')",message="maxUnavailable must be a number of pods, 0 or more, or a percentage from 0% to 100%"
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// clusters that take part, by their Cilium cluster names, the own one
	// included. Default: every cluster of the mesh that holds the budget or
	// exports the service, or that has done so before; a configured cluster that
	// was never read counts as taking part until it can be read.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=511
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Clusters []string `json:"clusters,omitempty"`

	// unhealthyPodEvictionPolicy says when a running pod that is not ready may be
	// evicted, in the words of policy/v1. IfHealthyBudget, the default: while the budget is met
	// without it. AlwaysAllow: always.
	//
	// +optional
	// +kubebuilder:validation:Enum=IfHealthyBudget;AlwaysAllow
	UnhealthyPodEvictionPolicy *policyv1.UnhealthyPodEvictionPolicyType `json:"unhealthyPodEvictionPolicy,omitempty"`

	// suspend lets every disruption in this cluster go whatever the budget says. The
	// other clusters still hold theirs, and count what is disrupted here.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// deletionProtection says what happens in this cluster when somebody deletes
	// what available covered pods live by: their node while it is Ready, their
	// namespace, or their owner (Deployment, StatefulSet, DaemonSet, ReplicaSet,
	// ReplicationController). Warn admits it with a warning, Deny refuses it.
	// The pods themselves could not be held any more once it is deleted.
	// Kubernetes' own controllers are never refused, nor is anybody while meshpdb
	// does not answer.
	//
	// +optional
	// +kubebuilder:default=Warn
	DeletionProtection DeletionProtection `json:"deletionProtection,omitempty"`
}

// DeletionProtection is an answer to the deletion of what covered pods live by.
//
// +kubebuilder:validation:Enum=Warn;Deny
type DeletionProtection string

// The answers; none given means Warn.
const (
	// DeletionProtectionWarn admits the deletion and warns whoever asked for it.
	DeletionProtectionWarn DeletionProtection = "Warn"
	// DeletionProtectionDeny refuses the deletion.
	DeletionProtectionDeny DeletionProtection = "Deny"
)

// MeshPodDisruptionBudgetStatus is the state of the budget as the cluster's
// own controller sees the mesh. The first five fields mean what they mean in
// policy/v1, counted over the mesh.
type MeshPodDisruptionBudgetStatus struct {
	// observedGeneration of the spec that the status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// disruptionsAllowed is how many pods may be disrupted now.
	DisruptionsAllowed int32 `json:"disruptionsAllowed"`
	// currentHealthy is the number of available pods whose disruption was not granted.
	CurrentHealthy int32 `json:"currentHealthy"`
	// desiredHealthy is how many pods must stay available.
	DesiredHealthy int32 `json:"desiredHealthy"`
	// expectedPods is how many pods the owners in all clusters ask for.
	ExpectedPods int32 `json:"expectedPods"`
	// disruptionsInFlight is how many pods are on their way out: their disruption
	// was granted, or they terminate.
	DisruptionsInFlight int32 `json:"disruptionsInFlight"`
	// clustersReachable is how many of the clusters in scope can be read: "3/3".
	// +optional
	ClustersReachable string `json:"clustersReachable,omitempty"`
	// clusters in scope, by name. A cluster stays listed, and thereby in scope,
	// until spec.clusters says otherwise or the budget is created anew.
	// +optional
	// +listType=map
	// +listMapKey=name
	Clusters []ClusterStatus `json:"clusters,omitempty"`
	// selector of the service in this cluster, as seen last. If the service is
	// deleted, its pods stay covered until it returns or the budget goes.
	// +optional
	Selector map[string]string `json:"selector,omitempty"`
	// owners in this cluster and how many pods each asks for. One that vanished
	// keeps its last count until another one appears.
	// +optional
	// +listType=map
	// +listMapKey=apiVersion
	// +listMapKey=kind
	// +listMapKey=name
	Owners []OwnerStatus `json:"owners,omitempty"`
	// waitingDisruptions is how many disruptions by Kubernetes itself wait in this
	// cluster until the budget lets them: pods that a node's taint is to evict, and
	// owners that cannot finish a scale-down or a rollout. They are done when budget frees.
	// +optional
	WaitingDisruptions int32 `json:"waitingDisruptions"`
	// waiting are those that have waited longest, at most 10.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=10
	Waiting []WaitingDisruption `json:"waiting,omitempty"`
	// conditions of the budget: Enforced, DisruptionAllowed, NotShared.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ClusterStatus is one cluster's part in the budget.
type ClusterStatus struct {
	// name of the cluster.
	Name string `json:"name"`
	// reachable: the cluster's kvstore can be read and holds the budget.
	Reachable bool `json:"reachable"`
	// message says why the cluster is not reachable.
	// +optional
	Message string `json:"message,omitempty"`
	// since when reachable has been as it is.
	// +optional
	Since metav1.Time `json:"since,omitempty"`
	// expectedPods of the cluster, as known last.
	ExpectedPods int32 `json:"expectedPods"`
	// currentHealthy pods of the cluster; 0 while it is not reachable.
	CurrentHealthy int32 `json:"currentHealthy"`
	// disruptionsInFlight in the cluster: pods that are on their way out; 0 while
	// it is not reachable.
	DisruptionsInFlight int32 `json:"disruptionsInFlight"`
	// shortSince is since when fewer pods of the cluster are available than
	// expected; not set while none is missing. While the cluster is not reachable, it stands as it was.
	// +optional
	ShortSince *metav1.Time `json:"shortSince,omitempty"`
	// bound is the minAvailable or maxUnavailable that the cluster stated last: it binds the
	// mesh also while the cluster cannot be read.
	// +optional
	Bound string `json:"bound,omitempty"`
}

// OwnerStatus is an owner of covered pods in this cluster.
type OwnerStatus struct {
	// apiVersion of the owner.
	APIVersion string `json:"apiVersion"`
	// kind of the owner.
	Kind string `json:"kind"`
	// name of the owner.
	Name string `json:"name"`
	// expectedPods is the number of pods that the owner asked for last.
	ExpectedPods int32 `json:"expectedPods"`
	// vanished: the owner does not exist any more.
	// +optional
	Vanished bool `json:"vanished,omitempty"`
}

// WaitingDisruption is what Kubernetes itself wants to do to covered pods of
// this cluster and has given up, or put off, for want of budget.
type WaitingDisruption struct {
	// kind of what waits: Pod, ReplicaSet, ReplicationController, StatefulSet or DaemonSet.
	Kind string `json:"kind"`
	// name of what waits, in the budget's namespace.
	Name string `json:"name"`
	// reason: TaintEviction, a pod on a node with a NoExecute taint; or
	// ScaleDownOrRollout, an owner with pods that are to go.
	// +kubebuilder:validation:Enum=TaintEviction;ScaleDownOrRollout
	Reason WaitingReason `json:"reason"`
	// since when it waits.
	Since metav1.Time `json:"since"`
	// message says in one sentence what is to be done.
	Message string `json:"message"`
}

// MeshPodDisruptionBudgetList is a list of budgets.
//
// +kubebuilder:object:root=true
type MeshPodDisruptionBudgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshPodDisruptionBudget `json:"items"`
}
