package admission

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
)

// FuzzReview sends anything as the objects of a review. db-0 and whatever is
// deleted are covered, and the Decider refuses: nothing but an object that
// says of itself that its end disrupts nothing may pass, and nothing panics.
func FuzzReview(f *testing.F) {
	running, err := json.Marshal(pod())
	if err != nil {
		f.Fatal(err)
	}
	pending, err := json.Marshal(podWith(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }))
	if err != nil {
		f.Fatal(err)
	}
	for _, object := range [][]byte{
		nil, []byte(`null`), []byte(`{}`), []byte(`[]`), []byte(`"x"`), []byte(`{"deleteOptions":null}`),
		[]byte(plain), []byte(strings.Replace(plain, "u0", "u1", 1)), running, pending,
		[]byte(`{"metadata":{"name":"db-0","uid":"u0","deletionTimestamp":null}}`), []byte(`{"metadata":null,"spec":null,"status":null}`),
	} {
		f.Add(object, object, true, "jane", "db-0")
		f.Add(object, object, false, "jane", "")
	}
	f.Fuzz(func(t *testing.T, object, oldObject []byte, eviction bool, name, pathName string) {
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Operation: admissionv1.Delete, Namespace: "n", Name: pathName,
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			UserInfo: authenticationv1.UserInfo{Username: name},
			Object:   runtime.RawExtension{Raw: object}, OldObject: runtime.RawExtension{Raw: oldObject},
		}}
		d := newDesk()
		decided := false
		d.decide = func(decide.Request) claim.Outcome {
			decided = true
			return no
		}
		if eviction {
			// The name comes from the URL of a pod that exists.
			r.Operation, r.SubResource, r.Name = admissionv1.Create, "eviction", "db-0"
			mutated := (&Precondition{Config{Pods: d, Log: logr.Discard(), Ready: func() error { return nil }}}).Handle(t.Context(), r)
			shaped(t, mutated)
		}
		response := d.handler().Handle(t.Context(), r)
		shaped(t, response)
		switch {
		case !response.Allowed:
		case decided:
			t.Fatal("allowed although the Decider refused")
		case eviction && !namesAnother(object):
			t.Fatalf("the eviction %q was allowed undecided", object)
		case !eviction && !isSystem(r.UserInfo) && !disruptsNothing(oldObject):
			t.Fatalf("the deletion of %q was allowed undecided", oldObject)
		}
	})
}

func shaped(t *testing.T, r admission.Response) {
	t.Helper()
	if !r.Allowed && (r.Result == nil || r.Result.Code != http.StatusTooManyRequests || r.Result.Reason != metav1.StatusReasonTooManyRequests) {
		t.Fatalf("refused with %+v", r.Result)
	}
	if strings.Contains(r.Result.String(), "internal error") && r.Allowed {
		t.Fatal("allowed after a panic")
	}
}

// namesAnother: the API server itself refuses by a UID that is not the pod's.
func namesAnother(object []byte) bool {
	var e struct {
		DeleteOptions struct{ Preconditions struct{ UID string } }
	}
	return json.Unmarshal(object, &e) == nil && e.DeleteOptions.Preconditions.UID != "u0"
}

// disruptsNothing is harmless, told from the words of the object.
func disruptsNothing(object []byte) bool {
	var p struct {
		Metadata struct {
			Name, UID         string
			DeletionTimestamp *string
			Annotations       map[string]string
		}
		Spec   struct{ NodeName string }
		Status struct{ Phase string }
	}
	if json.Unmarshal(object, &p) != nil || p.Metadata.Name == "" || p.Metadata.UID == "" {
		return false
	}
	_, mirror := p.Metadata.Annotations["kubernetes.io/config.mirror"]
	phase := p.Status.Phase
	return p.Metadata.DeletionTimestamp != nil || mirror || p.Spec.NodeName == "" ||
		phase == "Pending" || phase == "Succeeded" || phase == "Failed"
}
