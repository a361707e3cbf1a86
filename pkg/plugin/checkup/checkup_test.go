package checkup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// authority is a PEM certificate that ends so long after noon.
func authority(t *testing.T, left time.Duration) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: noon.Add(-1000 * time.Hour), NotAfter: noon.Add(left)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func replicaOf(name string, leader bool) roster.Replica {
	at := noon.Add(-time.Hour)
	return roster.Replica{
		Name: name, Cluster: "c1", Version: "v0.1.0", Written: noon.Add(-3 * time.Second), Started: at, Leader: leader,
		Peers:     []roster.Store{{Name: "c2", Since: at, RoundTrip: 12.3}, {Name: "c3", Since: at, RoundTrip: 80}},
		Instances: []roster.Store{{Name: "10.0.0.1:2379", Since: at, RoundTrip: 0.4}},
		Certificates: []roster.Certificate{
			{Use: "webhook", File: "/webhook/tls.crt", Expires: noon.Add(60 * 24 * time.Hour)}, {Use: "own kvstore", File: "/own.crt", Expires: noon.Add(90 * 24 * time.Hour)},
			{Use: "peer c2", File: "/peer.crt", Expires: noon.Add(90 * 24 * time.Hour)},
		},
	}
}

func budgetOf(name string) v1alpha1.MeshPodDisruptionBudget {
	one := intstr.FromInt32(1)
	b := v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name, Generation: 1},
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: name, MaxUnavailable: &one},
		Status: v1alpha1.MeshPodDisruptionBudgetStatus{
			ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 9, DesiredHealthy: 8, ExpectedPods: 9,
			Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonEnforced},
				{Type: v1alpha1.ConditionNotShared, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonShared},
			},
		},
	}
	for _, c := range []string{"c1", "c2", "c3"} {
		b.Status.Clusters = append(b.Status.Clusters, v1alpha1.ClusterStatus{Name: c, Reachable: true, ExpectedPods: 3, CurrentHealthy: 3, Bound: "maxUnavailable 1"})
	}
	return b
}

// healthy is an installation with which nothing is wrong.
func healthy(t *testing.T) (Facts, Shipped) {
	t.Helper()
	shipped, err := ReadShipped()
	if err != nil {
		t.Fatal(err)
	}
	bundle := authority(t, 1000*time.Hour)
	validating, mutating := shipped.Validating.DeepCopy(), shipped.Mutating.DeepCopy()
	for i := range validating.Webhooks {
		validating.Webhooks[i].ClientConfig.CABundle = bundle
		// As the API server fills it in.
		if validating.Webhooks[i].ObjectSelector == nil {
			validating.Webhooks[i].ObjectSelector = &metav1.LabelSelector{}
		}
		if validating.Webhooks[i].NamespaceSelector == nil {
			validating.Webhooks[i].NamespaceSelector = &metav1.LabelSelector{}
		}
	}
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].ClientConfig.CABundle = bundle
	}
	return Facts{
		Context: "c1", Namespace: "kube-system", Now: noon,
		Roster:  []roster.Replica{replicaOf("meshpdb-controller-1", true), replicaOf("meshpdb-controller-2", false)},
		Budgets: []v1alpha1.MeshPodDisruptionBudget{budgetOf("db"), budgetOf("web")},
		Services: map[string]*corev1.Service{
			"prod/db": {ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "db"}}, "prod/web": {ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "web"}},
		},
		Namespaces: map[string]*corev1.Namespace{"prod": {ObjectMeta: metav1.ObjectMeta{Name: "prod", Labels: map[string]string{v1alpha1.NamespaceLabel: "true"}}}},
		Validating: validating, Mutating: mutating, ClusterRole: shipped.ClusterRole.DeepCopy(), Role: shipped.Role.DeepCopy(),
		Bindings: []string{"ClusterRoleBinding meshpdb-controller", "RoleBinding meshpdb-controller"},
		Probe:    Probe{Pod: "prod/db-0", Took: 12 * time.Millisecond},
	}, shipped
}

func TestNothingIsWrong(t *testing.T) {
	f, shipped := healthy(t)
	all := Examine(f, shipped)
	if Code(all) != 0 || len(all) != len(order) {
		t.Errorf("found %+v", all)
	}
	for i, found := range all {
		if found.Level != OK || found.Check != order[i] || found.Context != "c1" || found.Message == "" || found.Fix != "" {
			t.Errorf("found %+v", found)
		}
	}
	if more := Compare([]Facts{f, f}); len(more) != 0 {
		t.Errorf("between clusters: %+v", more)
	}
}

func answer(code int32, reason metav1.StatusReason, message string, causes ...metav1.StatusCause) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{Causes: causes}}}
}

// faults are what may be wrong: what is found, and that nothing else is.
var faults = map[string]struct {
	inflict func(*testing.T, *Facts)
	level   Level
	check   Check
	// says are words of the message, and of the fix after a bar.
	says string
}{
	"not installed": {func(_ *testing.T, f *Facts) {
		f.Roster, f.RosterMissing, f.Validating, f.Mutating, f.ClusterRole, f.Role, f.Bindings = nil, true, nil, nil, nil, nil, nil
	}, Error, Controllers, "meshpdb is not installed in context c1|if this is the right context, in a checkout of https://github.com/meshpdb/meshpdb at the version that is to run: kubectl --context c1 apply -k deploy"},
	"no roster":           {func(_ *testing.T, f *Facts) { f.Roster, f.RosterMissing = nil, true }, Error, Controllers, "no controller reports|get pods -l app.kubernetes.io/name=meshpdb-controller"},
	"roster not readable": {func(_ *testing.T, f *Facts) { f.Roster, f.RosterErr = nil, errors.New("forbidden") }, Unchecked, Controllers, "forbidden|get configmaps"},
	"a replica is silent": {func(_ *testing.T, f *Facts) {
		f.Roster = append(f.Roster, replicaOf("a", false))
		f.Roster[2].Written = noon.Add(-2 * time.Minute)
	}, Warning, Controllers, "replica a has reported nothing since 11:58:00Z (2m ago)|kubectl --context c1 -n kube-system get pod a"},
	"all replicas are silent": {func(_ *testing.T, f *Facts) {
		f.Roster = f.Roster[:1]
		f.Roster[0].Written = noon.Add(-time.Minute)
	}, Error, Controllers, "has reported nothing since 11:59:00Z (60s ago)|no replica is left"},
	"one replica":          {func(_ *testing.T, f *Facts) { f.Roster = f.Roster[:1] }, Warning, Controllers, "only one replica runs|--replicas=2"},
	"no leader":            {func(_ *testing.T, f *Facts) { f.Roster[0].Leader = false }, Error, Controllers, "no replica leads|get lease"},
	"cannot decide":        {func(_ *testing.T, f *Facts) { f.Roster[1].NotReady = "its informers are not in step yet" }, Error, Controllers, "meshpdb-controller-2 cannot decide: its informers|logs meshpdb-controller-2"},
	"two versions":         {func(_ *testing.T, f *Facts) { f.Roster[1].Version = "v0.2.0" }, Warning, Controllers, "v0.1.0 (meshpdb-controller-1), v0.2.0 (meshpdb-controller-2)|rollout"},
	"no own kvstore":       {func(_ *testing.T, f *Facts) { f.Roster[0].Problem = "no https URL" }, Error, KVStore, "no https URL|meshpdb-kvstore"},
	"a peer is lost":       {store(0, "its kvstore is unreachable: connection refused"), Error, Peers, "peer c2 cannot be read since 11:00:00Z (60m ago): its kvstore is unreachable: connection refused|kubectl meshpdb forget c2 -A --context c1"},
	"a peer is empty":      {store(0, "no meshpdb publishes in its kvstore"), Error, Peers, "no meshpdb publishes|kubectl meshpdb doctor --context c2"},
	"a peer's certificate": {store(0, "client certificate /peer.crt expired at 2026-01-01T00:00:00Z"), Error, Peers, "expired|clustermesh-apiserver-remote-cert"},
	"a peer forbids it":    {store(0, "its kvstore cannot be read: permission denied"), Error, Peers, "permission denied|remote certificate"},
	"one replica cannot read a peer": {func(_ *testing.T, f *Facts) { f.Roster[1].Peers[1].Message = "its kvstore does not answer in time" }, Error, Peers,
		"peer c3 cannot be read since 11:00:00Z (60m ago): its kvstore does not answer in time (by replica meshpdb-controller-2; meshpdb-controller-1 reads it)|c3"},
	"a peer is slow": {func(_ *testing.T, f *Facts) { f.Roster[1].Peers[1].RoundTrip = 501 }, Warning, Peers, "peer c3 is slow: 501 ms|path"},
	"an instance is lost": {func(_ *testing.T, f *Facts) {
		for i := range f.Roster {
			f.Roster[i].Instances[0].Message = "its kvstore is unreachable: connection refused"
		}
	}, Error, KVStore, "instance 10.0.0.1:2379 of the own kvstore cannot be read|start what serves 10.0.0.1:2379"},
	"a certificate ends soon": {func(_ *testing.T, f *Facts) {
		for i := range f.Roster {
			f.Roster[i].Certificates[0].Expires = noon.Add(50 * time.Hour)
		}
	}, Warning, Certificates, "webhook ends in 2d2h, at 2026-11-24T14:00:00Z|cert-manager"},
	"a certificate has ended":   {func(_ *testing.T, f *Facts) { f.Roster[0].Certificates[1].Expires = noon.Add(-time.Hour) }, Error, Certificates, "own kvstore ended at 11:00:00Z|clustermesh-apiserver-admin-cert"},
	"a certificate is not read": {func(_ *testing.T, f *Facts) { f.Roster[0].Certificates[2].Message = "no such file" }, Error, Certificates, "peer c2 cannot be read: no such file|clustermesh-apiserver-remote-cert"},

	"no validating webhooks": {func(_ *testing.T, f *Facts) { f.Validating = nil }, Error, Webhooks, "ValidatingWebhookConfiguration meshpdb does not exist|at v0.1.0: kubectl --context c1 apply -f deploy/webhooks.yaml"},
	"no mutating webhook":    {func(_ *testing.T, f *Facts) { f.Mutating = nil }, Error, Webhooks, "MutatingWebhookConfiguration meshpdb does not exist|apply"},
	"webhooks not readable":  {func(_ *testing.T, f *Facts) { f.WebhookErr = errors.New("forbidden") }, Unchecked, Webhooks, "forbidden|validatingwebhookconfigurations"},
	"a webhook is missing":   {func(_ *testing.T, f *Facts) { f.Validating.Webhooks = f.Validating.Webhooks[1:] }, Error, Webhooks, "webhook evictions.meshpdb.io does not exist|apply"},
	"a webhook fails open":   {webhookOf(func(w *admissionv1.ValidatingWebhook) { ignore := admissionv1.Ignore; w.FailurePolicy = &ignore }), Error, Webhooks, "deletions.meshpdb.io: failurePolicy is Ignore, and is shipped as Fail: while no controller answers|apply"},
	"a condition is missing": {webhookOf(func(w *admissionv1.ValidatingWebhook) { w.MatchConditions = w.MatchConditions[1:] }), Error, Webhooks, "matchCondition not-deleting is missing|apply"},
	"a condition is changed": {webhookOf(func(w *admissionv1.ValidatingWebhook) { w.MatchConditions[0].Expression = "false" }), Error, Webhooks, `matchCondition not-deleting is "false"|apply`},
	"a condition is added": {webhookOf(func(w *admissionv1.ValidatingWebhook) {
		w.MatchConditions = append(w.MatchConditions, admissionv1.MatchCondition{Name: "mine", Expression: "false"})
	}), Error, Webhooks, "matchCondition mine is not shipped|apply"},
	"other rules": {webhookOf(func(w *admissionv1.ValidatingWebhook) {
		w.Rules[0].Operations = []admissionv1.OperationType{admissionv1.Create}
	}), Error, Webhooks, "rules are not those|apply"},
	"another selector": {webhookOf(func(w *admissionv1.ValidatingWebhook) { w.NamespaceSelector = nil }), Error, Webhooks, "namespaceSelector|apply"},
	"another object selector": {webhookOf(func(w *admissionv1.ValidatingWebhook) {
		w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	}), Error, Webhooks, "objectSelector|apply"},
	"other side effects":       {webhookOf(func(w *admissionv1.ValidatingWebhook) { none := admissionv1.SideEffectClassNone; w.SideEffects = &none }), Error, Webhooks, "sideEffects is None, and is shipped as NoneOnDryRun|apply"},
	"a shorter timeout":        {webhookOf(func(w *admissionv1.ValidatingWebhook) { two := int32(2); w.TimeoutSeconds = &two }), Warning, Webhooks, "timeoutSeconds is 2, and is shipped as 10|apply"},
	"another path":             {webhookOf(func(w *admissionv1.ValidatingWebhook) { path := "/other"; w.ClientConfig.Service.Path = &path }), Error, Webhooks, `path is "/other", and is shipped as "/validate"|apply`},
	"no authority":             {webhookOf(func(w *admissionv1.ValidatingWebhook) { w.ClientConfig.CABundle = []byte("\n") }), Error, Webhooks, "caBundle is empty|cainjector"},
	"nonsense as an authority": {webhookOf(func(w *admissionv1.ValidatingWebhook) { w.ClientConfig.CABundle = []byte("x") }), Error, Webhooks, "holds no certificate|cainjector"},
	"the authority has ended": {func(t *testing.T, f *Facts) {
		f.Mutating.Webhooks[0].ClientConfig.CABundle = authority(t, -time.Hour)
	}, Error, Webhooks, "preconditions.meshpdb.io: every certificate of its caBundle has ended, the last at 11:00:00Z|cainjector"},

	"nobody serves the webhook": {probe(answer(500, metav1.StatusReasonInternalError, `failed calling webhook "preconditions.meshpdb.io": connect: connection refused`)), Error, Webhook, "does not reach it|until a controller serves it"},
	"the webhook is not known":  {probe(answer(500, metav1.StatusReasonInternalError, `failed calling webhook "x": tls: failed to verify certificate: x509: certificate signed by unknown authority`)), Error, Webhook, "x509|do not fit"},
	"the webhook hangs":         {probe(answer(500, metav1.StatusReasonInternalError, `failed calling webhook "x": context deadline exceeded`)), Error, Webhook, "deadline|no path"},
	"no webhook service":        {probe(answer(500, metav1.StatusReasonInternalError, `failed calling webhook "x": service "meshpdb-webhook" not found`)), Error, Webhook, "not found|Service of the webhook is missing"},
	"evictions are forbidden":   {probe(apierrors.NewForbidden(schema.GroupResource{Resource: "pods/eviction"}, "db-0", errors.New("no"))), Unchecked, Webhook, "forbidden|auth can-i create pods --subresource=eviction"},
	"another answer":            {probe(errors.New("no route")), Error, Webhook, "failed: no route|mend"},
	"429 of somebody else":      {probe(answer(429, metav1.StatusReasonTooManyRequests, "slow down")), Error, Webhook, "slow down|mend"},

	"no role":            {func(_ *testing.T, f *Facts) { f.Role = nil }, Error, RBAC, "Role kube-system/meshpdb-controller does not exist|rbac.yaml"},
	"no cluster role":    {func(_ *testing.T, f *Facts) { f.ClusterRole = nil }, Error, RBAC, "ClusterRole meshpdb-controller does not exist|rbac.yaml"},
	"a verb is missing":  {func(_ *testing.T, f *Facts) { f.ClusterRole.Rules = f.ClusterRole.Rules[1:] }, Error, RBAC, "delete meshpoddisruptionbudgets.meshpdb.io|rbac.yaml"},
	"an older role":      {func(_ *testing.T, f *Facts) { f.Role.Rules[3].ResourceNames = []string{"meshpdb-kvstore-instances"} }, Error, RBAC, "configmaps meshpdb-controller-status|rbac.yaml"},
	"a binding is gone":  {func(_ *testing.T, f *Facts) { f.Bindings = f.Bindings[:1] }, Error, RBAC, "RoleBinding meshpdb-controller does not bind|rbac.yaml"},
	"roles not readable": {func(_ *testing.T, f *Facts) { f.RBACErr = errors.New("forbidden") }, Unchecked, RBAC, "forbidden|clusterroles"},

	"no budgets kind":     {func(_ *testing.T, f *Facts) { f.BudgetsErr = errors.New("not known") }, Unchecked, Budgets, "not known|apply -k deploy"},
	"services unreadable": {func(_ *testing.T, f *Facts) { f.LookupErr = errors.New("forbidden") }, Unchecked, Services, "forbidden|services"},
	"suspended":           {first(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Spec.Suspend = true }), Warning, Budgets, "prod/db is suspended|kubectl meshpdb resume db -n prod --context c1"},
	"not enforced":        {first(enforced(v1alpha1.ReasonServiceNotFound)), Error, Budgets, "prod/db is not enforced: because|create Service prod/db"},
	"no selector":         {first(enforced(v1alpha1.ReasonServiceHasNoSelector)), Error, Budgets, "because|selector"},
	"protected":           {first(enforced(v1alpha1.ReasonProtectedNamespace)), Error, Budgets, "because|another namespace"},
	"left out":            {first(enforced(v1alpha1.ReasonClusterNotInScope)), Error, Budgets, "because|spec.clusters"},
	"own kvstore":         {first(enforced(v1alpha1.ReasonKVStoreUnavailable)), Error, Budgets, "because|see kvstore"},
	"no label":            {func(_ *testing.T, f *Facts) { f.Namespaces["prod"].Labels = nil; f.Budgets = f.Budgets[:1] }, Error, Budgets, "namespace prod lacks the label meshpdb.io/budgeted=true|label namespace prod"},
	"never": {first(func(b *v1alpha1.MeshPodDisruptionBudget) {
		zero := intstr.FromInt32(0)
		b.Spec.MaxUnavailable = &zero
		b.Status.DisruptionsAllowed, b.Status.DesiredHealthy = 0, 9
		for i := range b.Status.Clusters {
			b.Status.Clusters[i].Bound = "maxUnavailable 0"
		}
	}), Warning, Budgets, "budget prod/db with maxUnavailable 0 wants all of its 9 pods available: as it stands it never allows|larger maxUnavailable"},
	"different bounds":   {first(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Clusters[2].Bound = "maxUnavailable 2" }), Warning, Budgets, "different bounds for budget prod/db (maxUnavailable 1, maxUnavailable 2)|same spec"},
	"an unknown cluster": {first(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Clusters[2].Name = "c9" }), Error, Budgets, "counts on cluster c9, which is not|forget c9"},
	"short for long": {first(func(b *v1alpha1.MeshPodDisruptionBudget) {
		since := metav1.NewTime(noon.Add(-time.Hour))
		b.Status.Clusters[1].ShortSince, b.Status.Clusters[1].CurrentHealthy = &since, 2
	}), Warning, Budgets, "prod/db misses pods in cluster c2 since 11:00:00Z (60m ago): 2 of 3|Ready"},
	"waits for long": {first(func(b *v1alpha1.MeshPodDisruptionBudget) {
		b.Status.Waiting = []v1alpha1.WaitingDisruption{{Kind: "Pod", Name: "db-0", Since: metav1.NewTime(noon.Add(-time.Hour)), Message: "a taint"}}
	}), Warning, Budgets, "Pod db-0 has waited for budget prod/db since 11:00:00Z (60m ago): a taint|status db"},
	"not exported": {first(unshared), Warning, Services, "service prod/db of budget prod/db is not exported|-n prod annotate service db service.cilium.io/global=true"},
	"not shared": {func(t *testing.T, f *Facts) {
		first(unshared)(t, f)
		f.Services["prod/db"].Annotations = map[string]string{"service.cilium.io/global": "true", "service.cilium.io/shared": "false"}
	}, Warning, Services, "not exported|service.cilium.io/shared-"},
}

func store(i int, message string) func(*testing.T, *Facts) {
	return func(_ *testing.T, f *Facts) {
		for r := range f.Roster {
			f.Roster[r].Peers[i].Message = message
		}
	}
}

// webhookOf changes the webhook of deletions, which has everything.
func webhookOf(change func(*admissionv1.ValidatingWebhook)) func(*testing.T, *Facts) {
	return func(_ *testing.T, f *Facts) {
		i := slices.IndexFunc(f.Validating.Webhooks, func(w admissionv1.ValidatingWebhook) bool { return w.Name == "deletions.meshpdb.io" })
		change(&f.Validating.Webhooks[i])
	}
}

func probe(err error) func(*testing.T, *Facts) {
	return func(_ *testing.T, f *Facts) { f.Probe.Err = err }
}

func first(change func(*v1alpha1.MeshPodDisruptionBudget)) func(*testing.T, *Facts) {
	return func(_ *testing.T, f *Facts) { change(&f.Budgets[0]) }
}

func enforced(reason string) func(*v1alpha1.MeshPodDisruptionBudget) {
	return func(b *v1alpha1.MeshPodDisruptionBudget) {
		b.Status.Conditions[0] = metav1.Condition{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionFalse, Reason: reason, Message: "because"}
	}
}

func unshared(b *v1alpha1.MeshPodDisruptionBudget) {
	b.Status.Conditions[1] = metav1.Condition{Type: v1alpha1.ConditionNotShared, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNotExported}
}

func TestEachFaultIsFoundAndNothingElse(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			f, shipped := healthy(t)
			fault.inflict(t, &f)
			var wrong []Finding
			all := Examine(f, shipped)
			for _, found := range all {
				if found.Level != OK {
					wrong = append(wrong, found)
				}
			}
			message, fix, _ := strings.Cut(fault.says, "|")
			if len(wrong) != 1 || wrong[0].Level != fault.level || wrong[0].Check != fault.check || !strings.Contains(wrong[0].Message, message) || !strings.Contains(wrong[0].Fix, fix) {
				t.Errorf("found %+v", wrong)
			}
			want := map[Level]int{Unchecked: 1, Warning: 1, Error: 2}[fault.level]
			if Code(all) != want || Count(all, fault.level) != 1 {
				t.Errorf("exit code %d, %d findings", Code(all), Count(all, fault.level))
			}
		})
	}
}

func TestProbesThatPass(t *testing.T) {
	cause := metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: "no"}
	for name, p := range map[string]Probe{
		"let go": {Pod: "prod/db-0"}, "no budget": {},
		"refused":     {Pod: "prod/db-0", Err: answer(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "no", cause)},
		"no such pod": {Pod: "prod/db-0", Err: apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "db-0")},
	} {
		f, shipped := healthy(t)
		f.Probe = p
		if all := Examine(f, shipped); Code(all) != 0 {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestClustersOfSeveralVersions(t *testing.T) {
	one, _ := healthy(t)
	two, _ := healthy(t)
	two.Context = "c2"
	for i := range two.Roster {
		two.Roster[i].Version = "v0.2.0"
	}
	all := Compare([]Facts{one, two})
	if len(all) != 1 || all[0].Level != Warning || !strings.Contains(all[0].Message, "v0.1.0 (c1), v0.2.0 (c2)") {
		t.Errorf("found %+v", all)
	}
}

// TestShippedIsWhole: an empty manifest would find everything right.
func TestShippedIsWhole(t *testing.T) {
	s, err := ReadShipped()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Validating.Webhooks) != 5 || len(s.Mutating.Webhooks) != 1 || len(s.ClusterRole.Rules) < 15 || len(s.Role.Rules) < 6 || s.Validating.Name != "meshpdb" || s.Mutating.Name != "meshpdb" {
		t.Errorf("read %d and %d webhooks, %d and %d rules", len(s.Validating.Webhooks), len(s.Mutating.Webhooks), len(s.ClusterRole.Rules), len(s.Role.Rules))
	}
}

// TestSaysWhatAllowsNothing: nothing is wrong with a budget that is spent, and who asks why drains hang is told of it.
func TestSaysWhatAllowsNothing(t *testing.T) {
	since := metav1.NewTime(time.Date(2026, 11, 22, 11, 58, 0, 0, time.UTC))
	spent := func(name string) v1alpha1.MeshPodDisruptionBudget {
		return v1alpha1.MeshPodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name},
			Status: v1alpha1.MeshPodDisruptionBudgetStatus{
				DesiredHealthy: 8, CurrentHealthy: 8, ExpectedPods: 9,
				Clusters: []v1alpha1.ClusterStatus{{Name: "c2", Reachable: true, ExpectedPods: 9, CurrentHealthy: 8, DisruptionsInFlight: 1, ShortSince: &since}},
			},
		}
	}
	free := spent("free")
	free.Status.DisruptionsAllowed = 1
	f := Facts{Context: "c1", Now: since.Add(2 * time.Minute)}
	for want, all := range map[string][]v1alpha1.MeshPodDisruptionBudget{
		"1 budget is enforced, and allows disruptions now":  {free},
		"2 budgets are enforced, and allow disruptions now": {free, free},
		"2 budgets are enforced; prod/db allows nothing now, held back by c2 since 11:58:00Z (2m ago); what would free it is told by: kubectl meshpdb status db -n prod --context c1": {free, spent("db")},
	} {
		f.Budgets = all
		if got, _ := f.wellEnforced(); got != want {
			t.Errorf("says %q, want %q", got, want)
		}
	}
	f.Budgets = []v1alpha1.MeshPodDisruptionBudget{spent("a"), spent("b"), spent("c"), spent("d")}
	if got, _ := f.wellEnforced(); !strings.HasPrefix(got, "4 budgets are enforced; 4 of them allow nothing now, such as: prod/a ") || strings.Contains(got, "prod/d") {
		t.Errorf("of many says %q", got)
	}
}
