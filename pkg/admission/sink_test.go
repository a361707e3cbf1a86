package admission

import (
	"errors"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/paths"
)

func byDescheduler(r *admission.Request) {
	r.UID = "review-1"
	r.UserInfo = authenticationv1.UserInfo{
		Username: "system:serviceaccount:kube-system:descheduler",
		Extra:    map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/pod-name": {"descheduler-0"}},
	}
}

// TestRefusalsWithoutADecisionAreTold: what is refused before the budgets could be asked is told as well.
func TestRefusalsWithoutADecisionAreTold(t *testing.T) {
	unknown := errors.New("the API server is gone")
	for name, c := range map[string]struct {
		change  func(*desk)
		request admission.Request
		mutate  bool
		path    paths.Path
		words   string
	}{
		"no precondition":   {request: evicting(`{}`, byDescheduler), path: paths.Eviction, words: "carries no UID precondition"},
		"not decodable":     {request: evicting(`[]`, byDescheduler), path: paths.Eviction, words: "could not be decoded"},
		"mutating":          {request: evicting(`[]`, byDescheduler), mutate: true, path: paths.Eviction, words: "could not be decoded"},
		"no pod to read":    {change: func(d *desk) { d.liveErr = unknown }, request: evicting(plain, byDescheduler), path: paths.Eviction, words: "could not be looked up"},
		"no budget to read": {change: func(d *desk) { d.budgetsErr = unknown }, request: evicting(plain, byDescheduler), path: paths.Eviction, words: "could not be listed"},
		"no pod to delete":  {request: deleting(podWith(func(p *corev1.Pod) { p.UID = "" }), byDescheduler), path: paths.Deletion, words: "has no name"},
		"a panic":           {change: func(d *desk) { d.decide = nil }, request: evicting(plain, byDescheduler), path: paths.Eviction, words: "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			if c.change != nil {
				c.change(d)
			}
			var handler admission.Handler = d.handler()
			if c.mutate {
				handler = d.precondition()
			}
			isRefusal(t, handle(t, handler, c.request), c.words)
			if len(d.answered) != 1 {
				t.Fatalf("told %+v", d.answered)
			}
			a := d.answered[0]
			if a.Allowed || a.Path != c.path || a.Review != "review-1" || a.UserPod != "descheduler-0" || a.Pod.Namespace != "n" ||
				!strings.Contains(a.Sentence, c.words) || reason(a) != "Undecided" {
				t.Errorf("told %+v", a)
			}
		})
	}
}

// TestTellingMayFail: who is told cannot take the refusal away by a panic.
func TestTellingMayFail(t *testing.T) {
	d := newDesk()
	config := d.config()
	config.Answered = func(Answer) { panic("full") }
	isRefusal(t, handle(t, &Handler{config}, evicting(plain)), "internal error")
}

func TestAll(t *testing.T) {
	var told []string
	All(func(s string) { told = append(told, "a"+s) }, func(s string) { told = append(told, "b"+s) })("1")
	if want := []string{"a1", "b1"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
