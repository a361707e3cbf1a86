package admission

import (
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// controllers are the ServiceAccounts of kube-system under which
// kube-controller-manager deletes pods
// (cmd/kube-controller-manager/app/controllermanager.go with
// --use-service-account-credentials). Autoscalers and deschedulers live in the
// same namespace and are not among them.
var controllers = []string{
	"cronjob-controller", "daemon-set-controller", "deployment-controller", "device-taint-eviction-controller",
	"generic-garbage-collector", "job-controller", "namespace-controller", "node-controller",
	"pod-garbage-collector", "replicaset-controller", "replication-controller", "statefulset-controller",
	"ttl-after-finished-controller",
}

// systemUsers are components that are no ServiceAccount.
var systemUsers = []string{"system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"}

// isSystem reports whether Kubernetes itself asks: one of its controllers, a
// node, or a control plane component. The authenticated identity decides,
// never a condition on the pod: that can be forged and outlives its cause.
func isSystem(user authenticationv1.UserInfo) bool {
	if slices.Contains(user.Groups, "system:nodes") || slices.Contains(systemUsers, user.Username) {
		return true
	}
	name, ok := strings.CutPrefix(user.Username, "system:serviceaccount:kube-system:")
	return ok && slices.Contains(controllers, name)
}
