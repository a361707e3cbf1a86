package checkup

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// apply is the command that brings what this version ships. It names files of the repository, which are of the version
// that runs: all of it would bring back the image of the checkout as well.
func (f Facts) apply(what string) string {
	version := "the version that is to run"
	if live := fresh(f); len(live) > 0 {
		version = live[0].Version
	}
	return fmt.Sprintf("in a checkout of https://github.com/meshpdb/meshpdb at %s: kubectl apply %s", version, what)
}

func (f Facts) applyWebhooks() string { return f.apply("-f deploy/webhooks.yaml") }

// webhook is what both kinds of webhooks have in common.
type webhook struct {
	name            string
	client          admissionv1.WebhookClientConfig
	rules           []admissionv1.RuleWithOperations
	failure         *admissionv1.FailurePolicyType
	namespaces      *metav1.LabelSelector
	objects         *metav1.LabelSelector
	sideEffects     *admissionv1.SideEffectClass
	timeout         *int32
	matchConditions []admissionv1.MatchCondition
}

func validating(c *admissionv1.ValidatingWebhookConfiguration) []webhook {
	var all []webhook
	for _, w := range c.Webhooks {
		all = append(all, webhook{w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.NamespaceSelector, w.ObjectSelector, w.SideEffects, w.TimeoutSeconds, w.MatchConditions})
	}
	return all
}

func mutating(c *admissionv1.MutatingWebhookConfiguration) []webhook {
	var all []webhook
	for _, w := range c.Webhooks {
		all = append(all, webhook{w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.NamespaceSelector, w.ObjectSelector, w.SideEffects, w.TimeoutSeconds, w.MatchConditions})
	}
	return all
}

// webhooks compares the configurations with those of this version.
func (f Facts) webhooks(shipped Shipped, passed map[Check]string) []Finding {
	if f.WebhookErr != nil {
		return []Finding{unchecked(Webhooks, f.WebhookErr, "have somebody allow you to get validatingwebhookconfigurations and mutatingwebhookconfigurations, and see: kubectl auth can-i get validatingwebhookconfigurations")}
	}
	var all []Finding
	missing := func(kind, name string) {
		all = append(all, Finding{Level: Error, Check: Webhooks, Message: fmt.Sprintf("%s %s does not exist: no budget is held in this cluster", kind, name), Fix: f.applyWebhooks()})
	}
	if f.Validating == nil {
		missing("ValidatingWebhookConfiguration", shipped.Validating.Name)
	} else {
		all = append(all, f.compare(validating(f.Validating), validating(&shipped.Validating))...)
	}
	if f.Mutating == nil {
		missing("MutatingWebhookConfiguration", shipped.Mutating.Name)
	} else {
		all = append(all, f.compare(mutating(f.Mutating), mutating(&shipped.Mutating))...)
	}
	passed[Webhooks] = fmt.Sprintf("all %d webhooks are as this version ships them", len(shipped.Validating.Webhooks)+len(shipped.Mutating.Webhooks))
	return all
}

func (f Facts) compare(installed, shipped []webhook) []Finding {
	var all []Finding
	for _, want := range shipped {
		i := indexOf(installed, want.name)
		if i < 0 {
			all = append(all, Finding{Level: Error, Check: Webhooks, Message: fmt.Sprintf("webhook %s does not exist", want.name), Fix: f.applyWebhooks()})
			continue
		}
		for _, problem := range f.differences(installed[i], want) {
			problem.Check = Webhooks
			problem.Message = fmt.Sprintf("webhook %s: %s", want.name, problem.Message)
			all = append(all, problem)
		}
	}
	return all
}

func indexOf(all []webhook, name string) int {
	for i, w := range all {
		if w.name == name {
			return i
		}
	}
	return -1
}

func (f Facts) differences(got, want webhook) []Finding {
	var all []Finding
	say := func(level Level, message, fix string) {
		all = append(all, Finding{Level: level, Message: message, Fix: fix})
	}
	if g, w := ptr.Deref(got.failure, admissionv1.Fail), ptr.Deref(want.failure, admissionv1.Fail); g != w {
		message := fmt.Sprintf("failurePolicy is %s, and is shipped as %s", g, w)
		if g == admissionv1.Ignore {
			message += ": while no controller answers, what only this webhook guards is let through"
		}
		say(Error, message, f.applyWebhooks())
	}
	if words := conditions(got.matchConditions, want.matchConditions); words != "" {
		say(Error, words, f.applyWebhooks())
	}
	if !equality.Semantic.DeepEqual(got.rules, want.rules) {
		say(Error, "its rules are not those that are shipped: other requests reach it", f.applyWebhooks())
	}
	if !sameSelector(got.namespaces, want.namespaces) {
		say(Error, "its namespaceSelector is not the one that is shipped: it is called in other namespaces than those with a budget", f.applyWebhooks())
	}
	if !sameSelector(got.objects, want.objects) {
		say(Error, "its objectSelector is not the one that is shipped", f.applyWebhooks())
	}
	if g := ptr.Deref(got.sideEffects, admissionv1.SideEffectClassUnknown); g != ptr.Deref(want.sideEffects, admissionv1.SideEffectClassUnknown) {
		say(Error, fmt.Sprintf("sideEffects is %s, and is shipped as %s: dry-runs fail, or claim what they should not", g, *want.sideEffects), f.applyWebhooks())
	}
	if g, w := ptr.Deref(got.timeout, 10), ptr.Deref(want.timeout, 10); g < w {
		say(Warning, fmt.Sprintf("timeoutSeconds is %d, and is shipped as %d: slow answers of a peer become failures of the webhook", g, w), f.applyWebhooks())
	}
	if g, w := path(got.client), path(want.client); g != w {
		say(Error, fmt.Sprintf("its path is %q, and is shipped as %q", g, w), f.applyWebhooks())
	}
	if problem, level := f.authority(got.client.CABundle); problem != "" {
		say(level, problem, "cert-manager's cainjector writes it (annotation cert-manager.io/inject-ca-from): kubectl -n kube-system describe certificate meshpdb-webhook")
	}
	return all
}

// conditions says how matchConditions differ; empty if they do not.
func conditions(got, want []admissionv1.MatchCondition) string {
	expressions := map[string]string{}
	for _, c := range got {
		expressions[c.Name] = c.Expression
	}
	var words []string
	for _, c := range want {
		expression, there := expressions[c.Name]
		switch {
		case !there:
			words = append(words, fmt.Sprintf("matchCondition %s is missing", c.Name))
		case expression != c.Expression:
			words = append(words, fmt.Sprintf("matchCondition %s is %q", c.Name, expression))
		}
		delete(expressions, c.Name)
	}
	for _, c := range got {
		if _, there := expressions[c.Name]; there {
			words = append(words, fmt.Sprintf("matchCondition %s is not shipped, and keeps requests out: %s", c.Name, c.Expression))
		}
	}
	return strings.Join(words, "; ")
}

// sameSelector takes none for an empty one, as the API server does.
func sameSelector(a, b *metav1.LabelSelector) bool {
	return equality.Semantic.DeepEqual(ptr.Deref(a, metav1.LabelSelector{}), ptr.Deref(b, metav1.LabelSelector{}))
}

func path(c admissionv1.WebhookClientConfig) string {
	if c.Service != nil {
		return ptr.Deref(c.Service.Path, "")
	}
	if u, err := url.Parse(ptr.Deref(c.URL, "")); err == nil {
		return u.Path
	}
	return ""
}

// authority examines a caBundle.
func (f Facts) authority(bundle []byte) (problem string, level Level) {
	if len(bytes.TrimSpace(bundle)) == 0 {
		return "caBundle is empty: the API server trusts no certificate of meshpdb", Error
	}
	var last time.Time
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	switch {
	case last.IsZero():
		return "caBundle holds no certificate", Error
	case last.Before(f.Now):
		return fmt.Sprintf("every certificate of its caBundle has ended, the last at %s", f.ago(last)), Error
	}
	return "", OK
}

// probe judges the dry-run eviction that went through the webhook.
func (f Facts) probe(passed map[Check]string) []Finding {
	p := f.Probe
	finding := Finding{Check: Webhook}
	switch {
	case p.Pod == "":
		passed[Webhook] = "not asked: no namespace holds a budget"
		return nil
	case p.Err == nil, apierrors.IsNotFound(p.Err), apierrors.IsTooManyRequests(p.Err) && apierrors.HasStatusCause(p.Err, policyv1.DisruptionBudgetCause):
		passed[Webhook] = fmt.Sprintf("a dry-run eviction of %s was answered within %s", p.Pod, max(p.Took, time.Millisecond).Round(time.Millisecond))
		return nil
	case apierrors.IsForbidden(p.Err):
		return []Finding{unchecked(Webhook, p.Err, "have somebody allow you to create pods/eviction (nothing is evicted, it is a dry-run), and see: kubectl auth can-i create pods --subresource=eviction")}
	case strings.Contains(p.Err.Error(), "failed calling webhook"):
		finding.Level = Error
		finding.Message = fmt.Sprintf("the API server does not reach it: %v", p.Err)
		finding.Fix = f.reachFix(p.Err.Error())
	default:
		finding.Level = Error
		finding.Message = fmt.Sprintf("a dry-run eviction of %s failed: %v", p.Pod, p.Err)
		finding.Fix = "mend what that says; other webhooks and the API server itself answer it as well"
	}
	return []Finding{finding}
}

func (f Facts) reachFix(message string) string {
	switch {
	case strings.Contains(message, "x509"), strings.Contains(message, "certificate"):
		return "the serving certificate and the caBundle of the webhook configurations do not fit: kubectl -n kube-system describe certificate meshpdb-webhook"
	case strings.Contains(message, "not found"):
		return fmt.Sprintf("the Service of the webhook is missing: %s", f.applyWebhooks())
	case strings.Contains(message, "deadline exceeded"), strings.Contains(message, "i/o timeout"):
		return fmt.Sprintf("the API server has no path to the controllers, or they hang; where the API server is outside of the pod network, they need hostNetwork; see where it is sent: kubectl -n %s get endpointslices -l kubernetes.io/service-name=meshpdb-webhook", f.Namespace)
	}
	fix := "until a controller serves it, every eviction in a namespace with a budget fails"
	if live := fresh(f); len(live) > 0 {
		fix += fmt.Sprintf("; the replicas that reported at %s have stopped since, or the API server has no way to them", f.ago(lastWritten(live)))
	}
	return fmt.Sprintf("%s: kubectl -n %s get pods -l app.kubernetes.io/name=meshpdb-controller", fix, f.Namespace)
}
