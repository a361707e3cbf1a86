package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Precondition is the mutating side: it adds the pod's UID to an eviction's
// preconditions (R12), so that a pod recreated under the same name between
// answer and deletion is not disrupted in the place of the claimed one. It is
// called first, so it also refuses what the cached view refuses: most
// refusals cost one call of a webhook and nothing else.
type Precondition struct{ Config }

// Handle answers one AdmissionReview. It never fails: a panic is a refusal.
func (p *Precondition) Handle(ctx context.Context, r admission.Request) (response admission.Response) {
	defer func() {
		if e := recover(); e != nil {
			p.Log.Error(fmt.Errorf("panic: %v", e), "add precondition", "pod", r.Namespace+"/"+r.Name)
			response = p.panicked(r)
		}
	}()
	start := time.Now()
	e, err := readEviction(r)
	if err != nil {
		return p.undecodable(r, err)
	}
	cached, err := p.Pods.CachedPod(ctx, r.Namespace, r.Name)
	known := err == nil && cached != nil
	if known && (e.uid == "" || e.uid == cached.UID) {
		if answer, refused := p.refuseCached(ctx, r, cached, e.dryRun, start); refused {
			return answer
		}
	}
	switch {
	case e.uid != "":
		return admission.Allowed("")
	case known:
		// The validating side reads the pod afresh.
		return p.patch(r, string(cached.UID))
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	pod, err := p.Pods.Pod(ctx, r.Namespace, r.Name)
	if err != nil {
		return p.unable(r, fmt.Sprintf("pod %s could not be looked up: %v", r.Name, err))
	}
	if pod == nil {
		// The API server answers 404; a UID that nobody has keeps it from evicting a successor.
		return p.patch(r, "00000000-0000-0000-0000-000000000000")
	}
	return p.patch(r, string(pod.UID))
}

// addedAnnotation marks an eviction whose UID precondition is ours: should the
// informer have shown a predecessor, the validating side asks the caller to try
// again, where a UID of the caller's own must end as a conflict.
const addedAnnotation = "meshpdb.io/precondition-added"

// patch works on the raw object, so that fields this version does not know stay.
func (c *Config) patch(r admission.Request, uid string) admission.Response {
	var object map[string]any
	// Integers stay integers, however large.
	if err := utiljson.Unmarshal(r.Object.Raw, &object); err != nil {
		return c.undecodable(r, err)
	}
	if object == nil {
		return c.undecodable(r, errors.New("it is null"))
	}
	err := errors.Join(
		unstructured.SetNestedField(object, uid, "deleteOptions", "preconditions", "uid"),
		unstructured.SetNestedField(object, "true", "metadata", "annotations", addedAnnotation),
	)
	if err != nil {
		return c.unable(r, fmt.Sprintf("the eviction of %s could not be given a UID precondition: %v", r.Name, err))
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return c.unable(r, fmt.Sprintf("the eviction of %s could not be encoded: %v", r.Name, err))
	}
	return admission.PatchResponseFromRaw(r.Object.Raw, raw)
}
