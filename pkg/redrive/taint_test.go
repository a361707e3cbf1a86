package redrive

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeaves(t *testing.T) {
	seen := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	taint := func(key string, added time.Duration) corev1.Taint {
		n := corev1.Taint{Key: key, Value: "v", Effect: corev1.TaintEffectNoExecute}
		if added != 0 {
			n.TimeAdded = &metav1.Time{Time: seen.Add(added)}
		}
		return n
	}
	bears := func(key string, seconds int64) corev1.Toleration {
		b := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}
		if seconds < 0 {
			b.TolerationSeconds = nil
		}
		return b
	}
	const forever = time.Duration(-1)
	for name, c := range map[string]struct {
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        time.Duration
		by          string
	}{
		"no taint":                       {nil, nil, forever, ""},
		"not tolerated":                  {[]corev1.Taint{taint("a", 0)}, nil, 0, "a"},
		"another one is":                 {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{bears("b", -1)}, 0, "a"},
		"for ever":                       {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{bears("a", -1)}, forever, ""},
		"all, for ever":                  {[]corev1.Taint{taint("a", 0), taint("b", 0)}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, forever, ""},
		"another value":                  {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpEqual, Value: "w"}}, 0, "a"},
		"one of two":                     {[]corev1.Taint{taint("a", 0), taint("b", 0)}, []corev1.Toleration{bears("a", -1)}, 0, "b"},
		"for a minute, since it is seen": {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{bears("a", 60)}, time.Minute, "a"},
		"for a minute, since it stands":  {[]corev1.Taint{taint("a", -40*time.Second)}, []corev1.Toleration{bears("a", 60)}, 20 * time.Second, "a"},
		"by a clock that is ahead":       {[]corev1.Taint{taint("a", time.Hour)}, []corev1.Toleration{bears("a", 60)}, time.Minute, "a"},
		"the shorter of two":             {[]corev1.Taint{taint("a", 0), taint("b", 0)}, []corev1.Toleration{bears("a", 60), bears("b", 30)}, 30 * time.Second, "b"},
		"and in another order":           {[]corev1.Taint{taint("b", 0), taint("a", 0)}, []corev1.Toleration{bears("a", 60), bears("b", 30)}, 30 * time.Second, "b"},
		"the first that fits decides":    {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{bears("a", 60), bears("a", -1)}, time.Minute, "a"},
		"for less than nothing":          {[]corev1.Taint{taint("a", 0)}, []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64)}}, 0, "a"},
	} {
		got, found := leaves(c.taints, c.tolerations, seen)
		if found != (c.want >= 0) || found && (!got.at.Equal(seen.Add(c.want)) || got.taint.Key != c.by) {
			t.Errorf("%s: got %+v %v, want %s by %q", name, got, found, c.want, c.by)
		}
	}
}
