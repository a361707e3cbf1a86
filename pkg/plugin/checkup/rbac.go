package checkup

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// rbac compares what the controllers may do with what they need.
func (f Facts) rbac(shipped Shipped, passed map[Check]string) []Finding {
	if f.RBACErr != nil {
		return []Finding{unchecked(RBAC, f.RBACErr, "have somebody allow you to get roles, clusterroles and their bindings, and see: kubectl auth can-i get clusterroles")}
	}
	var all []Finding
	say := func(format string, args ...any) {
		all = append(all, Finding{Level: Error, Check: RBAC, Message: fmt.Sprintf(format, args...), Fix: f.apply("-f deploy/rbac.yaml")})
	}
	if f.ClusterRole == nil {
		say("ClusterRole %s does not exist", shipped.ClusterRole.Name)
	} else if lacks := lacking(f.ClusterRole.Rules, shipped.ClusterRole.Rules); lacks != "" {
		say("ClusterRole %s does not let the controllers %s", shipped.ClusterRole.Name, lacks)
	}
	if f.Role == nil {
		say("Role %s/%s does not exist", f.Namespace, shipped.Role.Name)
	} else if lacks := lacking(f.Role.Rules, shipped.Role.Rules); lacks != "" {
		say("Role %s/%s does not let the controllers %s", f.Namespace, shipped.Role.Name, lacks)
	}
	for _, binding := range []string{"ClusterRoleBinding " + shipped.ClusterRole.Name, "RoleBinding " + shipped.Role.Name} {
		if !slices.Contains(f.Bindings, binding) {
			say("%s does not bind the controllers' ServiceAccount", binding)
		}
	}
	passed[RBAC] = "the controllers may do what this version needs"
	return all
}

// lacking lists what rules leave out of what is needed; empty if nothing.
func lacking(rules, needed []rbacv1.PolicyRule) string {
	covered, missing := validation.Covers(rules, needed)
	if covered {
		return ""
	}
	var words []string
	for _, r := range missing {
		resource := strings.Join(r.Resources, ",")
		if group := strings.Join(r.APIGroups, ","); group != "" {
			resource += "." + group
		}
		if len(r.ResourceNames) > 0 {
			resource += " " + strings.Join(r.ResourceNames, ",")
		}
		words = append(words, strings.Join(r.Verbs, ",")+" "+resource)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), "; ")
}
