package admission

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// FuzzReview sends anything as the objects of a review. db-0 and whatever is
// deleted are covered, and the Decider refuses: nothing but an object that
// says of itself that its end disrupts nothing may pass, nothing panics, and
// nothing that asks for a dry-run is decided as if it did not.
func FuzzReview(f *testing.F) {
	for _, object := range reviewed(f) {
		f.Add(object, object, true, false, "jane", "db-0")
		f.Add(object, object, false, true, "jane", "")
	}
	f.Add([]byte(nil), reviewed(f)[0], false, false, "system:serviceaccount:kube-system:job-controller", "db-0")
	f.Fuzz(func(t *testing.T, object, oldObject []byte, eviction, dryRun bool, name, pathName string) {
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Operation: admissionv1.Delete, Namespace: "n", Name: pathName, DryRun: &dryRun,
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			UserInfo: authenticationv1.UserInfo{Username: name},
			Object:   runtime.RawExtension{Raw: object}, OldObject: runtime.RawExtension{Raw: oldObject},
		}}
		if eviction {
			// The name comes from the URL of a pod that exists.
			r.Operation, r.SubResource, r.Name = admissionv1.Create, "eviction", "db-0"
			mutated(t, r)
			dryRun = dryRun || saysDryRun(object)
		}
		d := newDesk()
		d.decide = func(decide.Request) claim.Outcome { return no }
		response := d.handler().Handle(t.Context(), r)
		shaped(t, response)
		for _, asked := range append(d.decided, d.refused...) {
			if asked.DryRun != dryRun || asked.UID == "" || asked.Namespace == "" && eviction {
				t.Fatalf("decided %+v, dry-run is %v", asked, dryRun)
			}
		}
		for _, a := range d.answered {
			if a.DryRun != dryRun {
				t.Fatalf("answered %+v, dry-run is %v", a, dryRun)
			}
		}
		switch {
		case !response.Allowed:
		case len(d.decided) > 0:
			t.Fatal("allowed although the Decider refused")
		case eviction && !namesAnother(object):
			t.Fatalf("the eviction %q was allowed undecided", object)
		case !eviction && !letGo(paths.OfDeletion(r.UserInfo)) && !disruptsNothing(oldObject):
			t.Fatalf("the deletion of %q was allowed undecided", oldObject)
		}
	})
}

// reviewed are objects as API servers send them, evictions of both versions among them, and some that none sends.
func reviewed(f *testing.F) [][]byte {
	f.Helper()
	objects := [][]byte{}
	for _, p := range []*corev1.Pod{pod(), podWith(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), podWith(func(p *corev1.Pod) { p.Spec.NodeName = "" })} {
		raw, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		objects = append(objects, raw)
	}
	for _, version := range []string{"policy/v1", "policy/v1beta1"} {
		for _, options := range []string{
			`{` + uid + `}`, `{}`, `null`, `{"preconditions":{"uid":"u1"}}`, `{"preconditions":{"uid":""}}`, `{"preconditions":null}`,
			`{"dryRun":["All"],` + uid + `}`, `{"dryRun":["None","All"]}`, `{"dryRun":"All"}`, `{"dryRun":[null]}`,
			`{"gracePeriodSeconds":0,"propagationPolicy":"Background","preconditions":{"resourceVersion":"7"}}`,
			`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":9223372036854775807,"orphanDependents":true}`,
		} {
			objects = append(objects, []byte(`{"apiVersion":"`+version+`","kind":"Eviction","metadata":{"name":"db-0","namespace":"n","creationTimestamp":null},"deleteOptions":`+options+`}`))
		}
	}
	for _, text := range []string{
		``, `null`, `{}`, `[]`, `"x"`, `{"metadata":{"annotations":{"meshpdb.io/precondition-added":"true"}},"deleteOptions":{` + uid + `}}`,
		`{"metadata":{"annotations":[]}}`, `{"metadata":7}`, `{"deleteOptions":{"preconditions":7}}`, `{"DeleteOptions":{"Preconditions":{"UID":"u0"}}}`,
		`{"metadata":{"name":"db-0","uid":"u0","deletionTimestamp":null}}`, `{"metadata":null,"spec":null,"status":null}`,
		`{"metadata":{"name":"db-0","uid":"u0","deletionTimestamp":"` + strings.Repeat("9", 100_000) + `"}}`,
	} {
		objects = append(objects, []byte(text))
	}
	return objects
}

// mutated checks the mutating side: what it lets pass carries a UID that the
// caller named or that is the pod's, and is otherwise what the caller sent.
func mutated(t *testing.T, r admission.Request) {
	t.Helper()
	response := newDesk().precondition().Handle(t.Context(), r)
	shaped(t, response)
	if !response.Allowed {
		return
	}
	text, err := json.Marshal(response.Patches)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	after := r.Object.Raw
	if len(response.Patches) > 0 {
		if after, err = patch.Apply(r.Object.Raw); err != nil {
			t.Fatalf("%s cannot be applied to %q: %v", text, r.Object.Raw, err)
		}
	}
	e, err := readEviction(admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Object: runtime.RawExtension{Raw: after}}})
	if err != nil || e.uid == "" {
		t.Fatalf("%q became %q: uid %q, %v", r.Object.Raw, after, e.uid, err)
	}
	for _, p := range response.Patches {
		if !strings.HasPrefix(p.Path, "/deleteOptions") && !strings.HasPrefix(p.Path, "/metadata") {
			t.Fatalf("%q: %s changes what is the caller's", r.Object.Raw, text)
		}
	}
	if before, err := readEviction(r); err != nil || before.uid != "" && before.uid != e.uid || saysDryRun(r.Object.Raw) != saysDryRun(after) {
		t.Fatalf("%q became %q", r.Object.Raw, after)
	}
}

// saysDryRun is told from the words of an eviction.
func saysDryRun(object []byte) bool {
	var e struct{ DeleteOptions struct{ DryRun []string } }
	return json.Unmarshal(object, &e) == nil && slices.Contains(e.DeleteOptions.DryRun, "All")
}

// letGo: this path is not held, or its node, which the desk does not have, tells.
func letGo(path paths.Path) bool {
	return paths.Of(path).Treatment == paths.Account || paths.Of(path).Treatment == paths.Skip || path == paths.TaintEviction
}

func shaped(t *testing.T, r admission.Response) {
	t.Helper()
	if !r.Allowed && (r.Result == nil || r.Result.Code != http.StatusTooManyRequests || r.Result.Reason != metav1.StatusReasonTooManyRequests) {
		t.Fatalf("refused with %+v", r.Result)
	}
	if strings.Contains(r.Result.String(), "internal error") && r.Allowed {
		t.Fatal("allowed after a panic")
	}
	if size := len(r.Result.String()); size > 5*maxSentence {
		t.Fatalf("an answer of %d bytes", size)
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
