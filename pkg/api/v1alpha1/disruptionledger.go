package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DisruptionLedger is the durable record of the claims on pods of one
// namespace, of which it has the name. Controllers change it by
// compare-and-swap before they answer a request; nobody else should. The
// ClusterMesh kvstore is emptied whenever its pod starts; this is not.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Ticket",type=integer,JSONPath=`.ticket`
// +kubebuilder:printcolumn:name="Claims",type=string,JSONPath=`.claims[*].pod`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type DisruptionLedger struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// ticket is the largest ticket ever seen; it orders claims over all clusters.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Ticket int64 `json:"ticket,omitempty"`
	// claims that stand. Atomic, for they are always swapped as a whole: the API
	// server would otherwise keep the owner of each field of each claim at every write.
	// +optional
	// +listType=atomic
	Claims []DisruptionClaim `json:"claims,omitempty"`
}

// DisruptionClaim announces the disruption of one pod.
type DisruptionClaim struct {
	// id is unique and never used again.
	ID string `json:"id"`
	// uid identifies the pod.
	UID string `json:"uid"`
	// pod is the pod's name.
	Pod string `json:"pod"`
	// budgets that covered the pod when it was claimed, as namespace/name.
	// +optional
	Budgets []string `json:"budgets,omitempty"`
	// views names, for each of budgets, the set of clusters that the claimant reads.
	// +optional
	// +listType=atomic
	Views []string `json:"views,omitempty"`
	// state is Pending until decided; Granted once the disruption is allowed.
	// +kubebuilder:validation:Enum=Pending;Granted
	State string `json:"state"`
	// ticket is the claim's priority: the smallest goes first.
	Ticket int64 `json:"ticket"`
	// seq counts repeated requests for a granted claim.
	// +optional
	Seq int64 `json:"seq,omitempty"`
	// reason is by which path the pod is to be disrupted.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// DisruptionLedgerList is a list of ledgers.
//
// +kubebuilder:object:root=true
type DisruptionLedgerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DisruptionLedger `json:"items"`
}
