package checkup

import (
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// Facts are what was gathered from one cluster. A nil object does not exist;
// what could not be read has an error instead.
type Facts struct {
	// Context that reaches the cluster, for people.
	Context string
	// Namespace of the controllers.
	Namespace string
	Now       time.Time

	// Roster is what controllers report of themselves; RosterMissing if there is none.
	Roster        []roster.Replica
	RosterMissing bool
	RosterErr     error

	Budgets    []v1alpha1.MeshPodDisruptionBudget
	BudgetsErr error
	// Services and Namespaces of the budgets, by "namespace/name" and name.
	Services   map[string]*corev1.Service
	Namespaces map[string]*corev1.Namespace
	LookupErr  error

	Validating    *admissionv1.ValidatingWebhookConfiguration
	Mutating      *admissionv1.MutatingWebhookConfiguration
	WebhookErr    error
	ClusterRole   *rbacv1.ClusterRole
	Role          *rbacv1.Role
	Bindings      []string // of the roles that stand, as "ClusterRoleBinding meshpdb-controller"
	RBACErr       error
	Probe         Probe
	PluginVersion string
}

// Probe is a dry-run eviction that went through the webhook.
type Probe struct {
	// Pod that was asked for, as "namespace/name"; empty if there was nothing to ask for.
	Pod string
	// Took it so long.
	Took time.Duration
	// Err is the API server's answer; nil if the eviction would have been let go.
	Err error
}

// Shipped is what this version installs.
type Shipped struct {
	Validating  admissionv1.ValidatingWebhookConfiguration
	Mutating    admissionv1.MutatingWebhookConfiguration
	ClusterRole rbacv1.ClusterRole
	Role        rbacv1.Role
}

// Examine examines one cluster.
func Examine(f Facts, shipped Shipped) []Finding {
	if f.notInstalled() {
		return sorted(f.Context, []Finding{f.install()}, nil)
	}
	var all []Finding
	passed := map[Check]string{}
	all = append(all, f.controllers(passed)...)
	all = append(all, f.webhooks(shipped, passed)...)
	all = append(all, f.probe(passed)...)
	all = append(all, f.rbac(shipped, passed)...)
	all = append(all, f.budgets(passed)...)
	return sorted(f.Context, all, passed)
}

// Compare examines what differs between clusters.
func Compare(all []Facts) []Finding {
	var findings []Finding
	versions := map[string]string{}
	for _, f := range all {
		for _, r := range fresh(f) {
			versions[r.Version] = f.Context
		}
	}
	if len(versions) > 1 {
		findings = append(findings, Finding{
			Level: Warning, Context: "all", Check: Controllers, Message: "controllers of several versions run: " + listOf(versions),
			Fix: "finish the upgrade: the same version in every cluster",
		})
	}
	return findings
}

func fresh(f Facts) []roster.Replica {
	var all []roster.Replica
	for _, r := range f.Roster {
		if !r.IsStale(f.Now) {
			all = append(all, r)
		}
	}
	return all
}

func unchecked(check Check, err error, fix string) Finding {
	return Finding{Level: Unchecked, Check: check, Message: fmt.Sprintf("could not be examined: %v", err), Fix: fix}
}
