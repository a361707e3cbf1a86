// Package v1alpha1 holds the API of the group meshpdb.io: the
// MeshPodDisruptionBudget that people write, and the DisruptionLedger in which
// controllers keep their claims.
//
// +kubebuilder:object:generate=true
// +groupName=meshpdb.io
package v1alpha1
