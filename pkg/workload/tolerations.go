package workload

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// joinTolerations writes those of NoExecute taints into one string: key,
// operator, value and seconds, a zero byte after each.
func joinTolerations(tolerations []corev1.Toleration) string {
	var b strings.Builder
	for i := range tolerations {
		t := &tolerations[i]
		if t.Effect != "" && t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		seconds := ""
		if t.TolerationSeconds != nil {
			seconds = strconv.FormatInt(*t.TolerationSeconds, 10)
		}
		for _, part := range []string{t.Key, string(t.Operator), t.Value, seconds} {
			b.WriteString(part)
			b.WriteByte(0)
		}
	}
	return b.String()
}

func splitTolerations(joined string) []corev1.Toleration {
	var all []corev1.Toleration
	for parts := strings.Split(joined, "\x00"); len(parts) > 4; parts = parts[4:] {
		t := corev1.Toleration{Key: parts[0], Operator: corev1.TolerationOperator(parts[1]), Value: parts[2], Effect: corev1.TaintEffectNoExecute}
		if seconds, err := strconv.ParseInt(parts[3], 10, 64); err == nil {
			t.TolerationSeconds = &seconds
		}
		all = append(all, t)
	}
	return all
}
