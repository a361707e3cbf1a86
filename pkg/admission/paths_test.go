package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
)

const kubeSystem = "system:serviceaccount:kube-system:"

func nodeWith(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func unready(p *corev1.Pod) { p.Status.Conditions = nil }

func ownedBySet(p *corev1.Pod) {
	controls := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "agent", UID: "ds", Controller: &controls}}
}

// TestPaths: what becomes of a DELETE depends on who asks and on live facts.
func TestPaths(t *testing.T) {
	for name, c := range map[string]struct {
		user string
		pod  func(*corev1.Pod)
		desk func(*desk)
		// what becomes of it: held (refused as decided), free (claimed whatever the
		// budget says), accounted, or part of a refusal.
		want       string
		retryAfter int32
	}{
		"replicaset":                      {user: kubeSystem + "replicaset-controller", want: "held"},
		"replicaset, broken pod":          {user: kubeSystem + "replicaset-controller", pod: unready, want: "free"},
		"statefulset":                     {user: kubeSystem + "statefulset-controller", want: "held"},
		"statefulset, broken pod":         {user: kubeSystem + "statefulset-controller", pod: unready, want: "free"},
		"daemonset":                       {user: kubeSystem + "daemon-set-controller", pod: ownedBySet, desk: func(d *desk) { d.node, d.set.UID = nodeWith(corev1.ConditionTrue), "ds" }, want: "held"},
		"daemonset, other node":           {user: kubeSystem + "daemon-set-controller", pod: ownedBySet, desk: func(d *desk) { d.node, d.set.UID = nodeWith(corev1.ConditionTrue, "drop"), "ds" }, want: "accounted"},
		"daemonset, gone":                 {user: kubeSystem + "daemon-set-controller", pod: ownedBySet, desk: func(d *desk) { d.node, d.set = nodeWith(corev1.ConditionTrue), nil }, want: "accounted"},
		"daemonset, replaced":             {user: kubeSystem + "daemon-set-controller", pod: ownedBySet, desk: func(d *desk) { d.node, d.set = nodeWith(corev1.ConditionTrue), &appsv1.DaemonSet{} }, want: "accounted"},
		"daemonset, look-up fails":        {user: kubeSystem + "daemon-set-controller", pod: ownedBySet, desk: func(d *desk) { d.factsErr = errors.New("timed out") }, want: "node node1 of pod db-0 could not be looked up: timed out"},
		"taint":                           {user: kubeSystem + "node-controller", desk: func(d *desk) { d.node = nodeWith(corev1.ConditionTrue, "maintenance") }, want: "held"},
		"taint, broken pod":               {user: kubeSystem + "node-controller", pod: unready, desk: func(d *desk) { d.node = nodeWith(corev1.ConditionTrue, "maintenance") }, want: "free"},
		"taint taken off":                 {user: kubeSystem + "node-controller", desk: func(d *desk) { d.node = nodeWith(corev1.ConditionTrue) }, want: "has no NoExecute taint any more"},
		"taint of a dead node":            {user: kubeSystem + "node-controller", desk: func(d *desk) { d.node = nodeWith(corev1.ConditionUnknown, "maintenance") }, want: "accounted"},
		"taint, node gone":                {user: kubeSystem + "node-controller", want: "accounted"},
		"taint, look-up fails":            {user: kubeSystem + "node-controller", desk: func(d *desk) { d.factsErr = errors.New("timed out") }, want: "could not be looked up: timed out"},
		"unreachable":                     {user: kubeSystem + "node-controller", desk: func(d *desk) { d.node = nodeWith(corev1.ConditionTrue, "node.kubernetes.io/unreachable") }, want: "accounted"},
		"scheduler":                       {user: "system:kube-scheduler", want: "accounted"},
		"scheduler, enforced":             {user: "system:kube-scheduler", desk: func(d *desk) { d.preempted = true }, want: "held", retryAfter: 10},
		"job":                             {user: kubeSystem + "job-controller", want: "accounted"},
		"pod gc":                          {user: kubeSystem + "pod-garbage-collector", want: "accounted"},
		"namespace":                       {user: kubeSystem + "namespace-controller", want: "accounted"},
		"garbage collector":               {user: kubeSystem + "generic-garbage-collector", want: "accounted"},
		"terminating namespace":           {user: "jane", desk: func(d *desk) { d.terminating = true }, want: "accounted"},
		"rollout while terminating":       {user: kubeSystem + "replicaset-controller", desk: func(d *desk) { d.terminating = true }, want: "accounted"},
		"person":                          {user: "jane", want: "held"},
		"person, broken pod":              {user: "jane", pod: unready, want: "held"},
		"person, broken pod, AlwaysAllow": {user: "jane", pod: unready, desk: alwaysAllow, want: "free"},
		"person, AlwaysAllow":             {user: "jane", desk: alwaysAllow, want: "held"},
		"one of two budgets AlwaysAllow": {user: "jane", pod: unready, desk: func(d *desk) {
			alwaysAllow(d)
			d.budgets = append(d.budgets, budgetOf("strict"))
		}, want: "held"},
		"suspended": {user: "jane", desk: func(d *desk) { d.budgets[0].Spec.Suspend = true }, want: "free"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			d.decide = waivedOnly
			if c.desk != nil {
				c.desk(d)
			}
			p := pod()
			if c.pod != nil {
				c.pod(p)
			}
			response := handle(t, d.handler(), deleting(p, by(user(c.user))))
			got := outcomeOf(t, d, response)
			if got != c.want && !strings.Contains(got, c.want) || c.want == "held" && got != "held" {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !response.Allowed && response.Result.Details.RetryAfterSeconds != c.retryAfter {
				t.Errorf("Retry-After %d, want %d", response.Result.Details.RetryAfterSeconds, c.retryAfter)
			}
		})
	}
}

// A refusal without a question is told of as every other, and only what a budget covers is refused at all.
func TestRefusalsWithoutAQuestion(t *testing.T) {
	manager := by(user(kubeSystem + "node-controller"))
	for name, c := range map[string]struct {
		desk   func(*desk)
		reason string
	}{
		"taint taken off": {desk: func(d *desk) { d.node = nodeWith(corev1.ConditionTrue) }, reason: "Moot"},
		"look-up fails":   {desk: func(d *desk) { d.factsErr = errors.New("timed out") }, reason: "Undecided"},
	} {
		d := newDesk()
		c.desk(d)
		if r := handle(t, d.handler(), deleting(pod(), manager)); r.Allowed || len(d.answered) != 1 || reason(d.answered[0]) != c.reason || d.answered[0].Budget != "n/b" {
			t.Errorf("%s: %+v, reported %+v", name, r.Result, d.answered)
		}
		for what, budgets := range map[string][]v1alpha1.MeshPodDisruptionBudget{"no budget": nil, "one of other clusters": {budgetOf("b", "c2")}} {
			d := newDesk()
			c.desk(d)
			d.budgets = budgets
			if r := handle(t, d.handler(), deleting(pod(), manager)); !r.Allowed || len(d.answered) != 0 {
				t.Errorf("%s, %s: %+v, reported %+v", name, what, r.Result, d.answered)
			}
		}
	}
}

// waivedOnly refuses what is not waived, as a spent budget does.
func waivedOnly(r decide.Request) claim.Outcome {
	if r.Waived != "" {
		return claim.Outcome{Allowed: true, Waived: true, Budget: "n/b", Sentence: r.Waived}
	}
	return no
}

func alwaysAllow(d *desk) {
	always := policyv1.AlwaysAllow
	d.budgets[0].Spec.UnhealthyPodEvictionPolicy = &always
}

func outcomeOf(t *testing.T, d *desk, r admission.Response) string {
	t.Helper()
	switch {
	case !r.Allowed && len(d.decided) == 1 && d.decided[0].Waived == "":
		return "held"
	case !r.Allowed && len(d.decided) == 0 && len(d.answered) == 1:
		return r.Result.Details.Causes[0].Message
	case r.Allowed && len(d.decided) == 1 && d.decided[0].Waived != "" && len(d.answered) == 1 && d.answered[0].Waived:
		return "free"
	case r.Allowed && len(d.decided) == 0 && len(d.answered) == 1 && d.answered[0].Accounted:
		return "accounted"
	}
	return fmt.Sprintf("%+v, decided %+v, reported %+v", r.Result, d.decided, d.answered)
}

// A pod that has become ready since is not free any more.
func TestAWaiverIsLookedAtAgain(t *testing.T) {
	for name, c := range map[string]struct {
		now  func(*desk)
		want bool
	}{
		"still unready": {func(d *desk) { unready(d.live) }, true},
		"ready now":     {func(*desk) {}, false},
		"gone":          {func(d *desk) { d.live = nil }, true},
		"replaced":      {func(d *desk) { d.live.UID = "u1" }, true},
		"unreadable":    {func(d *desk) { d.liveErr = errors.New("timed out") }, false},
	} {
		d := newDesk()
		c.now(d)
		still, asked := false, false
		d.decide = func(r decide.Request) claim.Outcome {
			if asked = r.StillFree != nil; asked {
				still, _ = r.StillFree(t.Context())
			}
			return no
		}
		handle(t, d.handler(), deleting(podWith(unready), by(user(kubeSystem+"replicaset-controller"))))
		if !asked || still != c.want {
			t.Errorf("%s: asked %t, still free %t", name, asked, still)
		}
	}
	d := newDesk()
	d.budgets[0].Spec.Suspend = true
	handle(t, d.handler(), deleting(pod()))
	if d.decided[0].StillFree != nil {
		t.Error("a suspended budget does not depend on the pod's state")
	}
}

// What is suspended goes even if it cannot be claimed; beside another budget it is not asked.
func TestSuspendedBudgets(t *testing.T) {
	for name, change := range map[string]func(*desk){
		"cannot claim":    func(d *desk) { d.decide = func(decide.Request) claim.Outcome { return no } },
		"not ready":       func(d *desk) { d.notReady = errors.New("starting") },
		"scope not known": func(d *desk) { d.budgets[0].Spec.Clusters = nil },
	} {
		for what, request := range map[string]admission.Request{"eviction": evicting(plain), "deletion": deleting(pod())} {
			d := newDesk()
			d.decide = waivedOnly
			d.budgets[0].Spec.Suspend = true
			change(d)
			if r := handle(t, d.handler(), request); !r.Allowed || len(d.answered) != 1 || !d.answered[0].Waived || !strings.Contains(d.answered[0].Sentence, "suspended") {
				t.Errorf("%s, %s: %+v, reported %d times", name, what, r.Result, len(d.answered))
			}
		}
	}
	d := newDesk()
	d.budgets[0].Spec.Suspend = true
	d.budgets = append(d.budgets, budgetOf("other"))
	deciding(no)(d)
	isRefusal(t, handle(t, d.handler(), evicting(plain)), "there is no room")
	if r := d.decided[0]; len(r.Budgets) != 1 || r.Budgets[0].Name != "n/other" || r.Waived != "" {
		t.Errorf("asked %+v", r)
	}
	// The mutating side must not refuse from the cached view either.
	d = newDesk()
	d.budgets[0].Spec.Suspend = true
	d.refuse = &no
	if r := handle(t, d.precondition(), evicting(`{"metadata":{"name":"db-0"}}`)); !r.Allowed {
		t.Errorf("refused from the cached view: %+v", r.Result)
	}
}

// TestBreakGlass: the wish stands on the pod, the right in RBAC; neither suffices alone.
func TestBreakGlass(t *testing.T) {
	wish := func(p *corev1.Pod) {
		p.Annotations = map[string]string{v1alpha1.BreakGlassAnnotation: "fire in the data centre"}
	}
	for name, c := range map[string]struct {
		pod      func(*corev1.Pod)
		desk     func(*desk)
		allowed  bool
		sentence string
		reviewed int
	}{
		"wish and right":    {pod: wish, desk: func(d *desk) { d.glass = true }, allowed: true, reviewed: 1, sentence: "jane broke the glass for db-0 (fire in the data centre), although there is no room"},
		"right, no wish":    {pod: func(*corev1.Pod) {}, desk: func(d *desk) { d.glass = true }, sentence: "there is no room"},
		"wish, no right":    {pod: wish, reviewed: 1, sentence: "there is no room; jane may not break the glass: that needs the verb break-glass on meshpoddisruptionbudgets.meshpdb.io n/b"},
		"empty wish":        {pod: func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.BreakGlassAnnotation: " "} }, desk: func(d *desk) { d.glass = true }, sentence: "there is no room"},
		"review fails":      {pod: wish, desk: func(d *desk) { d.factsErr = errors.New("timed out") }, reviewed: 1, sentence: "could not be found out: timed out"},
		"meshpdb not ready": {pod: wish, desk: func(d *desk) { d.glass, d.notReady = true, errors.New("starting") }, allowed: true, reviewed: 1, sentence: "other clusters do not know: meshpdb cannot claim it yet"},
		"two budgets":       {pod: wish, desk: func(d *desk) { d.glass, d.budgets = true, append(d.budgets, budgetOf("other")) }, allowed: true, reviewed: 2, sentence: "jane broke the glass"},
		"one of two is new": {pod: wish, desk: func(d *desk) { d.glass, d.budgets = true, append(d.budgets, fresh("new"), budgetOf("other")) }, allowed: true, reviewed: 3, sentence: "jane broke the glass"},
		"it is new":         {pod: wish, desk: func(d *desk) { d.glass, d.budgets = true, []v1alpha1.MeshPodDisruptionBudget{fresh("new")} }, allowed: true, reviewed: 1, sentence: "although budget n/new is new and the clusters that take part are not known yet; other clusters do not know: meshpdb cannot claim it yet"},
	} {
		for what, review := range map[string]func(*corev1.Pod) admission.Request{
			"eviction": func(*corev1.Pod) admission.Request { return evicting(plain) }, "deletion": func(p *corev1.Pod) admission.Request { return deleting(p) },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				d := newDesk()
				d.decide = waivedOnly
				c.pod(d.live)
				c.pod(d.cached)
				if c.desk != nil {
					c.desk(d)
				}
				response := handle(t, d.handler(), review(d.live))
				if response.Allowed != c.allowed || len(d.answered) != 1 || d.answered[0].BrokenGlass != c.allowed || !strings.Contains(d.answered[0].Sentence, c.sentence) {
					t.Errorf("got %+v, reported %+v", response.Result, d.answered)
				}
				if len(d.reviewed) != c.reviewed {
					t.Errorf("reviewed %v", d.reviewed)
				}
				if audited := response.AuditAnnotations["break-glass"] != ""; audited != c.allowed {
					t.Errorf("audited: %t", audited)
				}
			})
		}
	}
	// A controller's refusal is not a person's: nobody's wish lets a rollout through.
	d := newDesk()
	d.decide, d.glass = waivedOnly, true
	wish(d.cached)
	d.refuse = &no
	if r := handle(t, d.precondition(), evicting(`{"metadata":{"name":"db-0"}}`)); !r.Allowed {
		t.Errorf("refused before anybody could ask for the right: %+v", r.Result)
	}
}

type reviews struct {
	client.Writer
	got *authorizationv1.SubjectAccessReview
	say authorizationv1.SubjectAccessReviewStatus
	err error
}

func (r *reviews) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	r.got = o.(*authorizationv1.SubjectAccessReview)
	r.got.Status = r.say
	return r.err
}

func TestReviewer(t *testing.T) {
	who := authenticationv1.UserInfo{Username: "jane", UID: "7", Groups: []string{"ops"}, Extra: map[string]authenticationv1.ExtraValue{"scopes": {"a"}}}
	api := &reviews{say: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}
	if may, err := (Reviewer{api}).MayBreakGlass(t.Context(), who, "n", "b"); !may || err != nil {
		t.Errorf("got %t, %v", may, err)
	}
	want := authorizationv1.ResourceAttributes{Namespace: "n", Name: "b", Verb: "break-glass", Group: "meshpdb.io", Version: "v1alpha1", Resource: "meshpoddisruptionbudgets"}
	if s := api.got.Spec; *s.ResourceAttributes != want || s.User != "jane" || s.UID != "7" || fmt.Sprint(s.Groups, s.Extra) != "[ops] map[scopes:[a]]" {
		t.Errorf("asked %+v", s)
	}
	api.say.Denied = true
	if may, _ := (Reviewer{api}).MayBreakGlass(t.Context(), who, "n", "b"); may {
		t.Error("a denial was taken for permission")
	}
	api.say.Denied, api.err = false, errors.New("timed out")
	if may, err := (Reviewer{api}).MayBreakGlass(t.Context(), who, "n", "b"); may || err == nil {
		t.Errorf("got %t, %v", may, err)
	}
}

// What a native budget would refuse is refused before anything is claimed.
func TestNativeBudgetsAreReadFirst(t *testing.T) {
	native := func(name string, allowed int32) policyv1.PodDisruptionBudget {
		return policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2},
			Status:     policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, DisruptionsAllowed: allowed, DesiredHealthy: 3, CurrentHealthy: 3},
		}
	}
	for name, c := range map[string]struct {
		desk    func(*desk)
		refusal string
	}{
		"none":             {desk: func(*desk) {}},
		"open":             {desk: func(d *desk) { d.native = []policyv1.PodDisruptionBudget{native("db", 1)} }},
		"spent":            {desk: func(d *desk) { d.native = []policyv1.PodDisruptionBudget{native("db", 0)} }, refusal: "db-0's PodDisruptionBudget db in this cluster allows no disruption now: it needs 3 healthy pods and has 3"},
		"two":              {desk: func(d *desk) { d.native = []policyv1.PodDisruptionBudget{native("a", 1), native("b", 1)} }, refusal: "more than one PodDisruptionBudget (a and b)"},
		"not observed yet": {desk: func(d *desk) { b := native("db", 0); b.Generation = 3; d.native = []policyv1.PodDisruptionBudget{b} }},
		"broken pod": {desk: func(d *desk) {
			d.native = []policyv1.PodDisruptionBudget{native("db", 0)}
			unready(d.live)
			unready(d.cached)
		}},
		"cannot be read": {desk: func(d *desk) {
			d.native, d.factsErr = []policyv1.PodDisruptionBudget{native("db", 0)}, errors.New("no informer")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for what, cached := range map[string]bool{"cached": true, "fresh": false} {
				d := newDesk()
				c.desk(d)
				if !cached {
					d.cached = nil
				}
				response := handle(t, d.handler(), evicting(plain))
				if c.refusal == "" {
					if !response.Allowed {
						t.Errorf("%s: refused: %+v", what, response.Result)
					}
					continue
				}
				isRefusal(t, response, c.refusal)
				if len(d.decided)+len(d.refused) != 0 {
					t.Errorf("%s: the Decider was asked", what)
				}
			}
			// A DELETE is not theirs to refuse.
			d := newDesk()
			c.desk(d)
			if r := handle(t, d.handler(), deleting(d.live)); !r.Allowed {
				t.Errorf("deletion refused: %+v", r.Result)
			}
		})
	}
}
