package paths

import (
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// serviceAccounts are those of kube-system under which kube-controller-manager
// deletes pods, with --use-service-account-credentials as kubeadm sets it
// (cmd/kube-controller-manager/app). Autoscalers and deschedulers live in the
// same namespace and are not among them: they are people's tools.
var serviceAccounts = map[string]Path{
	"replicaset-controller":            ReplicaSet,
	"replication-controller":           ReplicaSet,
	"statefulset-controller":           StatefulSet,
	"daemon-set-controller":            DaemonSet,
	"job-controller":                   Job,
	"cronjob-controller":               Job,
	"ttl-after-finished-controller":    Job,
	"node-controller":                  TaintEviction,
	"device-taint-eviction-controller": DeviceTaint,
	"pod-garbage-collector":            PodGC,
	"namespace-controller":             Namespace,
	"generic-garbage-collector":        GarbageCollector,
	"deployment-controller":            ControlPlane,
}

// users are components of the control plane that are no ServiceAccounts.
// Without credentials of their own, all controllers are
// system:kube-controller-manager: which of them asks cannot be told, so none of
// them is held up.
var users = map[string]Path{
	"system:kube-scheduler":          Preemption,
	"system:apiserver":               ControlPlane,
	"system:kube-controller-manager": ControlPlane,
}

// OfDeletion returns the path of a DELETE of a pod by its authenticated caller.
func OfDeletion(user authenticationv1.UserInfo) Path {
	if slices.Contains(user.Groups, "system:nodes") {
		return Kubelet
	}
	if path, ok := users[user.Username]; ok {
		return path
	}
	if name, ok := strings.CutPrefix(user.Username, "system:serviceaccount:kube-system:"); ok {
		if path, ok := serviceAccounts[name]; ok {
			return path
		}
	}
	return Deletion
}

// BySystem reports whether Kubernetes itself asks, and not a person or a tool.
func BySystem(user authenticationv1.UserInfo) bool { return OfDeletion(user) != Deletion }
