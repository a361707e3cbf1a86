package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// going is when terminating pods began to.
var going = metav1.Unix(1, 0)

// isRefusal checks the shape that kubectl drain and the autoscalers retry:
// that of the eviction API's own refusal, without Retry-After.
func isRefusal(t *testing.T, r admission.Response, why string) {
	t.Helper()
	if r.Allowed {
		t.Errorf("allowed: %+v", r.Result)
		return
	}
	if r.Result == nil || r.Result.Details == nil || len(r.Result.Details.Causes) != 1 {
		t.Fatalf("no status with one cause: %+v", r.Result)
	}
	sentence := r.Result.Details.Causes[0].Message
	want := &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
		Message: "Cannot evict pod as it would violate the pod's disruption budget: " + sentence,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: sentence}}},
	}
	if !reflect.DeepEqual(r.Result, want) {
		t.Errorf("got %+v, want %+v", r.Result, want)
	}
	if r.Result.Details.RetryAfterSeconds != 0 {
		t.Error("Retry-After makes client-go sleep inside the caller")
	}
	if !strings.Contains(sentence, why) {
		t.Errorf("the cause is %q, want %q", sentence, why)
	}
}

func TestEvictions(t *testing.T) {
	for name, c := range map[string]struct {
		object string
		// query is a dry-run asked for in the URL.
		query bool
		desk  func(*desk)
		// refusal is part of the cause; empty if the eviction is allowed.
		refusal string
		// asked: the Decider was asked, for a dry-run or not.
		asked, dryRun bool
	}{
		"allowed":             {object: plain, asked: true},
		"refused":             {object: plain, desk: deciding(no), asked: true, refusal: "there is no room"},
		"policy/v1beta1":      {object: strings.Replace(plain, "policy/v1", "policy/v1beta1", 1), desk: deciding(no), asked: true, refusal: "there is no room"},
		"dry-run by query":    {object: plain, query: true, asked: true, dryRun: true},
		"dry-run by body":     {object: `{"deleteOptions":{"dryRun":["All"],` + uid + `}}`, asked: true, dryRun: true},
		"no UID":              {object: `{"metadata":{"name":"db-0"}}`, refusal: "carries no UID precondition"},
		"no UID with options": {object: `{"deleteOptions":{"gracePeriodSeconds":0}}`, refusal: "carries no UID precondition"},
		"only a version":      {object: `{"deleteOptions":{"preconditions":{"resourceVersion":"7"}}}`, refusal: "carries no UID precondition"},
		"undecodable":         {object: `{"deleteOptions":7}`, refusal: "could not be decoded"},
		"empty":               {object: ``, refusal: "could not be decoded"},
		"null":                {object: `null`, refusal: "carries no UID precondition"},
		"no such pod":         {object: plain, desk: func(d *desk) { d.live = nil }},
		"replaced pod":        {object: plain, desk: func(d *desk) { d.live.UID = "u1"; d.cached.UID = "u1" }},
		"replaced, as the informer has yet to see": {object: plain, desk: func(d *desk) { d.live.UID = "u1" }},
		// The caller did not say which pod he means: he may try again, where a conflict would end his drain.
		"replaced, the UID was ours": {object: `{"metadata":{"name":"db-0","annotations":{"meshpdb.io/precondition-added":"true"}},"deleteOptions":{` + uid + `}}`,
			desk: func(d *desk) { d.live.UID = "u1" }, refusal: "pod db-0 was replaced a moment ago"},
		"look-up fails":  {object: plain, desk: func(d *desk) { d.live, d.liveErr = nil, errors.New("timed out") }, refusal: "pod db-0 could not be looked up: timed out"},
		"informer fails": {object: plain, desk: func(d *desk) { d.cached, d.cachedErr = nil, errors.New("not started") }, asked: true},
		"budgets fail":   {object: plain, desk: func(d *desk) { d.budgetsErr = errors.New("no informer") }, refusal: "the budgets of pod db-0 could not be listed: no informer"},
		"no budget":      {object: plain, desk: func(d *desk) { d.budgets = nil }},
		"terminating":    {object: plain, desk: func(d *desk) { d.live.DeletionTimestamp = &going }},
		"failed":         {object: plain, desk: func(d *desk) { d.live.Status.Phase = corev1.PodFailed }},
		"succeeded":      {object: plain, desk: func(d *desk) { d.live.Status.Phase = corev1.PodSucceeded }},
		"pending":        {object: plain, desk: func(d *desk) { d.live.Status.Phase = corev1.PodPending }},
		"unbound":        {object: plain, desk: func(d *desk) { d.live.Spec.NodeName = "" }},
		"mirror":         {object: plain, desk: func(d *desk) { d.live.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }},
		// A condition is no permission: it can be forged and outlives its cause.
		"DisruptionTarget": {object: plain, desk: func(d *desk) {
			d.live.Status.Conditions = append(d.live.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
			deciding(no)(d)
		}, asked: true, refusal: "there is no room"},
		"not ready to decide": {object: plain, desk: func(d *desk) { d.notReady = errors.New("its informers are not in step yet") }, refusal: "meshpdb in cluster c1 cannot decide yet: its informers are not in step yet"},
		"scope not known":     {object: plain, desk: func(d *desk) { d.budgets = append(d.budgets, fresh("new")) }, refusal: "budget n/new is new and the clusters that take part are not known yet"},
		"out of scope":        {object: plain, desk: func(d *desk) { d.budgets[0].Spec.Clusters = []string{"c2", "c3"} }},
		"panic":               {object: plain, desk: func(d *desk) { d.decide = func(decide.Request) claim.Outcome { panic("nil map") } }, asked: true, refusal: "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			if c.desk != nil {
				c.desk(d)
			}
			r := evicting(c.object)
			if c.query {
				dry(&r)
			}
			// The apiserver's own name for the user matters for DELETE only.
			for _, u := range []string{"jane", "system:serviceaccount:kube-system:node-controller"} {
				d.decided = nil
				r.UserInfo = user(u)
				response := handle(t, d.handler(), r)
				if c.refusal != "" {
					isRefusal(t, response, c.refusal)
				} else if !response.Allowed {
					t.Errorf("refused: %+v", response.Result)
				}
				if asked := len(d.decided) == 1; asked != c.asked {
					t.Fatalf("the Decider was asked %d times", len(d.decided))
				}
				if c.asked && d.decided[0].DryRun != c.dryRun {
					t.Errorf("asked with DryRun %t", d.decided[0].DryRun)
				}
				if len(response.Patches) > 0 || len(response.Patch) > 0 {
					t.Error("a validating webhook must not patch")
				}
			}
		})
	}
}

func deciding(o claim.Outcome) func(*desk) {
	return func(d *desk) { d.decide = func(decide.Request) claim.Outcome { return o } }
}

func TestWhatTheDeciderIsAsked(t *testing.T) {
	d := newDesk()
	elsewhere := budgetOf("elsewhere", "c2", "c3")
	d.budgets = append(d.budgets, elsewhere, budgetOf("d", "c1", "c3"))
	d.budgets[2].Spec.Service = "front"
	d.budgets[2].Status.Clusters = []v1alpha1.ClusterStatus{{Name: "c3", Bound: "minAvailable 2"}}
	handle(t, d.handler(), evicting(plain))
	handle(t, d.handler(), deleting(pod(), dry))
	want := "{n db-0 u0 Eviction [{n/b [c1 c2] map[]} {n/d [c1 c3] map[c3:[minAvailable 2]]}] map[b:db d:front] false  <nil>}"
	if got := fmt.Sprint(d.decided[0]); got != want {
		t.Errorf("eviction:\n got %s\nwant %s", got, want)
	}
	want = strings.NewReplacer("Eviction", "Deletion", "false", "true").Replace(want)
	if got := fmt.Sprint(d.decided[1]); got != want {
		t.Errorf("deletion:\n got %s\nwant %s", got, want)
	}
}

// What the cached view refuses costs no call to the API server.
func TestEvictionsRefusedFromTheCache(t *testing.T) {
	d := newDesk()
	d.refuse = &no
	isRefusal(t, handle(t, d.handler(), evicting(plain)), "there is no room")
	if d.liveLookups != 0 || len(d.decided) != 0 {
		t.Errorf("%d look-ups, %d decisions", d.liveLookups, len(d.decided))
	}
	if len(d.answered) != 1 || d.answered[0].Path != paths.Eviction || d.answered[0].User != "jane" || d.answered[0].Sentence != "there is no room" {
		t.Errorf("reported: %+v", d.answered)
	}
	for name, r := range map[string]admission.Request{
		"by query": evicting(plain, dry),
		"by body":  evicting(`{"deleteOptions":{"dryRun":["All"],` + uid + `}}`),
	} {
		d.answered = nil
		isRefusal(t, handle(t, d.handler(), r), "there is no room")
		if !d.answered[0].DryRun {
			t.Errorf("dry-run %s is reported as a real one", name)
		}
	}
	// What the informer does not show yet is asked about after the look-up, before a claim is written.
	for name, change := range map[string]func(*desk){
		"another generation": func(d *desk) { d.cached.UID = "old" },
		"gone for informers": func(d *desk) { d.cached = nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			d.refuse = &no
			change(d)
			isRefusal(t, handle(t, d.handler(), evicting(plain)), "there is no room")
			if len(d.refused) != 1 || len(d.decided) != 0 || d.liveLookups != 1 {
				t.Errorf("asked the cached view %d times, decided %d times, asked the API server %d times", len(d.refused), len(d.decided), d.liveLookups)
			}
		})
	}
	for name, change := range map[string]func(*desk){
		"terminating, cached": func(d *desk) { d.cached.DeletionTimestamp = &going },
		"scope not known":     func(d *desk) { d.budgets = []v1alpha1.MeshPodDisruptionBudget{fresh("b")} },
		"not ready":           func(d *desk) { d.notReady = errors.New("starting") },
		"no budget":           func(d *desk) { d.budgets = nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			d.refuse = &no
			change(d)
			handle(t, d.handler(), evicting(plain))
			if len(d.refused) != 0 || d.liveLookups != 1 {
				t.Errorf("asked the cached view %d times, the API server %d times", len(d.refused), d.liveLookups)
			}
		})
	}
}

func TestDeletions(t *testing.T) {
	running := func(*corev1.Pod) {}
	for name, c := range map[string]struct {
		pod     func(*corev1.Pod)
		desk    func(*desk)
		request func(*admission.Request)
		refusal string
		asked   bool
	}{
		"allowed":          {pod: running, asked: true},
		"refused":          {pod: running, desk: deciding(no), asked: true, refusal: "there is no room"},
		"deletecollection": {pod: running, desk: deciding(no), request: func(r *admission.Request) { r.Name = "" }, asked: true, refusal: "there is no room"},
		"not ready pod":    {pod: func(p *corev1.Pod) { p.Status.Conditions = nil }, asked: true},
		"terminating":      {pod: func(p *corev1.Pod) { p.DeletionTimestamp = &going }},
		"failed":           {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }},
		"succeeded":        {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }},
		"pending":          {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }},
		"unbound":          {pod: func(p *corev1.Pod) { p.Spec.NodeName = "" }},
		"mirror":           {pod: func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }},
		"no budget":        {pod: running, desk: func(d *desk) { d.budgets = nil }},
		"out of scope":     {pod: running, desk: func(d *desk) { d.budgets[0].Spec.Clusters = []string{"c2"} }},
		"scope not known":  {pod: running, desk: func(d *desk) { d.budgets[0].Spec.Clusters = nil }, refusal: "budget n/b is new"},
		"not ready":        {pod: running, desk: func(d *desk) { d.notReady = errors.New("starting") }, refusal: "cannot decide yet: starting"},
		"budgets fail":     {pod: running, desk: func(d *desk) { d.budgetsErr = errors.New("no informer") }, refusal: "no informer"},
		"panic":            {pod: running, desk: func(d *desk) { d.decide = func(decide.Request) claim.Outcome { panic("nil map") } }, asked: true, refusal: "internal error"},
		"forged condition": {pod: func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		}, desk: deciding(no), asked: true, refusal: "there is no room"},
		"no object":         {pod: running, request: old(``), refusal: "could not be decoded"},
		"null":              {pod: running, request: old(`null`), refusal: "could not be decoded"},
		"nothing in object": {pod: running, request: old(`{}`), refusal: "could not be decoded"},
		"no UID in object":  {pod: running, request: old(`{"metadata":{"name":"db-0"}}`), refusal: "could not be decoded"},
		"other object":      {pod: running, request: old(`{"metadata":{"name":"db-0","uid":"u0"},"spec":["nodes"]}`), refusal: "could not be decoded"},
		// The object of a DELETE is in oldObject; object is null.
		"object elsewhere": {pod: running, request: func(r *admission.Request) { r.Object, r.OldObject = r.OldObject, r.Object }, refusal: "could not be decoded"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			if c.desk != nil {
				c.desk(d)
			}
			r := deleting(podWith(c.pod))
			if c.request != nil {
				c.request(&r)
			}
			response := handle(t, d.handler(), r)
			if c.refusal != "" {
				isRefusal(t, response, c.refusal)
			} else if !response.Allowed {
				t.Errorf("refused: %+v", response.Result)
			}
			if asked := len(d.decided) == 1; asked != c.asked {
				t.Fatalf("the Decider was asked %d times", len(d.decided))
			}
			if c.asked && d.decided[0].Pod != "db-0" {
				t.Errorf("asked about pod %q", d.decided[0].Pod)
			}
		})
	}
}

func old(raw string) func(*admission.Request) {
	return func(r *admission.Request) { r.OldObject.Raw = []byte(raw) }
}

// Controllers that can wait are held like people, and whoever else lives in
// kube-system; what Kubernetes must do is accounted.
func TestWhoIsHeld(t *testing.T) {
	const kubeSystem = "system:serviceaccount:kube-system:"
	for _, u := range []struct {
		name   string
		groups []string
		held   bool
	}{
		{name: kubeSystem + "cronjob-controller"},
		{name: kubeSystem + "daemon-set-controller", held: true},
		{name: kubeSystem + "deployment-controller"},
		{name: kubeSystem + "device-taint-eviction-controller"},
		{name: kubeSystem + "generic-garbage-collector"},
		{name: kubeSystem + "job-controller"},
		{name: kubeSystem + "namespace-controller"},
		{name: kubeSystem + "pod-garbage-collector"},
		{name: kubeSystem + "replicaset-controller", held: true},
		{name: kubeSystem + "replication-controller", held: true},
		{name: kubeSystem + "statefulset-controller", held: true},
		{name: kubeSystem + "ttl-after-finished-controller"},
		{name: "system:kube-controller-manager"},
		{name: "system:kube-scheduler"},
		{name: "system:apiserver"},
		{name: "system:node:node1", groups: []string{"system:nodes", "system:authenticated"}},
		{name: "jane", held: true},
		{name: "", held: true},
		{name: "kubernetes-admin", groups: []string{"system:masters"}, held: true},
		// A node by its name only, and one by the group of authenticated users.
		{name: "system:node:node1", groups: []string{"system:authenticated"}, held: true},
		{name: kubeSystem + "cluster-autoscaler", groups: []string{"system:serviceaccounts:kube-system"}, held: true},
		{name: kubeSystem + "descheduler", held: true},
		{name: kubeSystem + "replicaset-controller2", held: true},
		{name: "system:serviceaccount:default:replicaset-controller", held: true},
		{name: "replicaset-controller", held: true},
		{name: "system:anonymous", groups: []string{"system:unauthenticated"}, held: true},
	} {
		t.Run(u.name, func(t *testing.T) {
			d := newDesk()
			deciding(no)(d)
			response := handle(t, d.handler(), deleting(pod(), by(user(u.name, u.groups...))))
			if response.Allowed == u.held {
				t.Errorf("allowed: %t", response.Allowed)
			}
			if len(d.answered) != 1 {
				t.Fatalf("reported %d times", len(d.answered))
			}
			a := d.answered[0]
			if u.held {
				isRefusal(t, response, "there is no room")
				if a.Path != paths.OfDeletion(user(u.name, u.groups...)) || a.User != u.name || a.Allowed || a.Accounted {
					t.Errorf("reported: %+v", a)
				}
				return
			}
			if a.Path == paths.Deletion || !a.Accounted || a.User != u.name || !a.Allowed || a.Budget != "n/b" || !strings.Contains(a.Sentence, "accounted and not held") {
				t.Errorf("reported: %+v", a)
			}
			if len(d.decided)+len(d.refused) != 0 {
				t.Error("the Decider was asked")
			}
		})
	}
}

// Nothing that is broken may hold up Kubernetes itself.
func TestTheSystemIsNeverHeldUp(t *testing.T) {
	system := by(user("system:kube-scheduler"))
	for name, change := range map[string]func(*desk){
		"not ready":    func(d *desk) { d.notReady = errors.New("starting") },
		"budgets fail": func(d *desk) { d.budgetsErr = errors.New("no informer") },
		"new budget":   func(d *desk) { d.budgets[0].Spec.Clusters = nil },
		"no budget":    func(d *desk) { d.budgets = nil },
	} {
		d := newDesk()
		change(d)
		if r := handle(t, d.handler(), deleting(pod(), system)); !r.Allowed {
			t.Errorf("%s: refused: %+v", name, r.Result)
		}
	}
	d := newDesk()
	terminating := podWith(func(p *corev1.Pod) { p.DeletionTimestamp = &going })
	if r := handle(t, d.handler(), deleting(terminating, system)); !r.Allowed || len(d.answered) != 0 {
		t.Errorf("the end of a terminating pod: allowed %t, accounted %d times", r.Allowed, len(d.answered))
	}
}

// What the answer says is what is reported, with the path and who asked.
func TestAnswersAreReported(t *testing.T) {
	for name, c := range map[string]struct {
		request admission.Request
		desk    func(*desk)
		want    string
	}{
		"eviction":        {request: evicting(plain), desk: func(*desk) {}, want: `eviction jane dry=false allowed=true "there is room"`},
		"refused":         {request: evicting(plain), desk: deciding(no), want: `eviction jane dry=false allowed=false "there is no room"`},
		"dry-run by body": {request: evicting(`{"deleteOptions":{"dryRun":["All"],` + uid + `}}`), desk: deciding(no), want: `eviction jane dry=true allowed=false "there is no room"`},
		"deletion":        {request: deleting(pod(), dry), desk: func(*desk) {}, want: `deletion jane dry=true allowed=true "there is room"`},
		"new budget":      {request: deleting(pod()), desk: func(d *desk) { d.budgets[0].Spec.Clusters = nil }, want: `deletion jane dry=false allowed=false "budget n/b is new and the clusters that take part are not known yet"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			c.desk(d)
			response := handle(t, d.handler(), c.request)
			if len(d.answered) != 1 {
				t.Fatalf("reported %d times", len(d.answered))
			}
			a := d.answered[0]
			if got := fmt.Sprintf("%s %s dry=%t allowed=%t %q", a.Path, a.User, a.DryRun, a.Allowed, a.Sentence); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if a.Pod.UID != typed || response.Allowed != a.Allowed || !strings.Contains(response.Result.Message, a.Sentence) {
				t.Errorf("the answer %+v is not the report %+v", response.Result, a)
			}
		})
	}
}

func TestOtherRequestsPass(t *testing.T) {
	for _, change := range []func(*admission.Request){
		func(r *admission.Request) { r.Operation = admissionv1.Update },
		func(r *admission.Request) { r.Resource.Resource = "nodes" },
		func(r *admission.Request) { r.SubResource = "status" },
	} {
		d := newDesk()
		deciding(no)(d)
		if r := handle(t, d.handler(), deleting(pod(), change)); !r.Allowed || len(d.decided) != 0 {
			t.Errorf("%+v", r.Result)
		}
	}
}

// A look-up has a deadline of its own, shorter than the webhook's.
func TestLookUpsHaveADeadline(t *testing.T) {
	for name, handler := range map[string]admission.Handler{
		"validating": &Handler{Config{Pods: waiting{newDesk()}, Ready: func() error { return nil }, Answered: func(Answer) {}}},
		"mutating":   &Precondition{Config{Pods: waiting{newDesk()}, Answered: func(Answer) {}}},
	} {
		object := plain
		if name == "mutating" {
			object = `{}`
		}
		isRefusal(t, handle(t, handler, evicting(object)), "could not be looked up")
	}
}

type waiting struct{ *desk }

func (waiting) CachedPod(context.Context, string, string) (*corev1.Pod, error) { return nil, nil }

func (waiting) Pod(ctx context.Context, _, _ string) (*corev1.Pod, error) {
	if _, has := ctx.Deadline(); !has {
		return pod(), nil
	}
	return nil, context.DeadlineExceeded
}
