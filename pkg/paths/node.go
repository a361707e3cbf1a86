package paths

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// EvictingTaint returns the first NoExecute taint that the tolerations do not
// tolerate, or only for a time; nil if there is none.
func EvictingTaint(taints []corev1.Taint, tolerations []corev1.Toleration) *corev1.Taint {
	for i := range taints {
		if taints[i].Effect == corev1.TaintEffectNoExecute && !tolerated(&taints[i], tolerations) {
			return &taints[i]
		}
	}
	return nil
}

func tolerated(taint *corev1.Taint, tolerations []corev1.Toleration) bool {
	for i := range tolerations {
		if tolerations[i].TolerationSeconds == nil && tolerations[i].ToleratesTaint(klog.Background(), taint, true) {
			return true
		}
	}
	return false
}

// Wants reports whether a DaemonSet keeps its pod on a node: its template's
// node selector and affinity match, and no NoExecute taint drives the pod away
// (pkg/controller/daemon, NodeShouldRunDaemonPod). A node that is gone is not wanted.
func Wants(set *appsv1.DaemonSet, node *corev1.Node, tolerations []corev1.Toleration) bool {
	if node == nil {
		return false
	}
	spec := &set.Spec.Template.Spec
	if spec.NodeName != "" && spec.NodeName != node.Name {
		return false
	}
	matches, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec}).Match(node)
	// A selector that cannot be read selects nothing, to the DaemonSet controller as well.
	return err == nil && matches && EvictingTaint(node.Spec.Taints, tolerations) == nil
}
