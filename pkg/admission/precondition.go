package admission

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/go-logr/logr"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Precondition is the mutating side: it adds the pod's UID to an eviction's
// preconditions (R12), so that a pod recreated under the same name between
// answer and deletion is not disrupted in the place of the claimed one.
type Precondition struct {
	Pods Pods
	Log  logr.Logger
}

// Handle answers one AdmissionReview. It never fails: a panic is a refusal.
func (p *Precondition) Handle(ctx context.Context, r admission.Request) (response admission.Response) {
	defer func() {
		if e := recover(); e != nil {
			p.Log.Error(fmt.Errorf("panic: %v", e), "add precondition", "pod", r.Namespace+"/"+r.Name)
			response = refuse("meshpdb met an internal error; its log tells more")
		}
	}()
	var eviction policyv1.Eviction
	if err := json.Unmarshal(r.Object.Raw, &eviction); err != nil {
		return refuse(fmt.Sprintf("the eviction of %s could not be decoded: %v", r.Name, err))
	}
	if o := eviction.DeleteOptions; o != nil && o.Preconditions != nil && o.Preconditions.UID != nil {
		return admission.Allowed("")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	// Afresh: the UID of a predecessor would fail the eviction with a conflict.
	pod, err := p.Pods.Pod(ctx, r.Namespace, r.Name)
	if err != nil {
		return refuse(fmt.Sprintf("pod %s could not be looked up: %v", r.Name, err))
	}
	if pod == nil {
		// The API server answers 404; a UID that nobody has keeps it from evicting a successor.
		return patch(r, "00000000-0000-0000-0000-000000000000")
	}
	return patch(r, string(pod.UID))
}

// patch works on the raw object, so that fields this version does not know stay.
func patch(r admission.Request, uid string) admission.Response {
	var object map[string]any
	// Integers stay integers, however large.
	if err := utiljson.Unmarshal(r.Object.Raw, &object); err != nil {
		return refuse(fmt.Sprintf("the eviction of %s could not be decoded: %v", r.Name, err))
	}
	if err := unstructured.SetNestedField(object, uid, "deleteOptions", "preconditions", "uid"); err != nil {
		return refuse(fmt.Sprintf("the eviction of %s could not be given a UID precondition: %v", r.Name, err))
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return refuse(fmt.Sprintf("the eviction of %s could not be encoded: %v", r.Name, err))
	}
	return admission.PatchResponseFromRaw(r.Object.Raw, raw)
}
