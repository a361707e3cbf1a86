package redrive

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// departure is when a pod is to leave its node, and for which taint.
type departure struct {
	taint corev1.Taint
	at    time.Time
}

// leaves returns the first departure that taints ask of a pod with these
// tolerations; false if it may stay for ever. A taint without a time counts
// from seen on, as it does to the taint manager
// (pkg/controller/tainteviction): the first toleration that fits a taint decides how long it is borne.
func leaves(taints []corev1.Taint, tolerations []corev1.Toleration, seen time.Time) (departure, bool) {
	var first departure
	found := false
	for i := range taints {
		bears, tolerated, forever := borne(&taints[i], tolerations)
		if tolerated && forever {
			continue
		}
		since := seen
		if added := taints[i].TimeAdded; added != nil && added.Time.Before(seen) {
			since = added.Time
		}
		if at := since.Add(bears); !found || at.Before(first.at) {
			first, found = departure{taint: taints[i], at: at}, true
		}
	}
	return first, found
}

// borne returns for how long a taint is tolerated.
func borne(taint *corev1.Taint, tolerations []corev1.Toleration) (bears time.Duration, tolerated, forever bool) {
	for i := range tolerations {
		if !tolerations[i].ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		seconds := tolerations[i].TolerationSeconds
		if seconds == nil {
			return 0, true, true
		}
		return time.Duration(max(*seconds, 0)) * time.Second, true, false
	}
	return 0, false, false
}

func (d departure) sentence(node string) string {
	return fmt.Sprintf("node %s has taint %s, which evicts it", node, d.taint.ToString())
}
