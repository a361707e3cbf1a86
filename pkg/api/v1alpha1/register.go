package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the API.
var GroupVersion = schema.GroupVersion{Group: "meshpdb.io", Version: "v1alpha1"}

// AddToScheme adds the kinds of the group to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&MeshPodDisruptionBudget{}, &MeshPodDisruptionBudgetList{},
		&DisruptionLedger{}, &DisruptionLedgerList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
