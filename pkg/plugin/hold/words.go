package hold

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Duration as kubectl tells ages: 2m10s, 3d.
func Duration(d time.Duration) string { return duration.HumanDuration(max(0, d)) }

// Ago is a time of day and how long ago it was: 15:04:05Z (2m10s ago), with the date if that is not today.
// Without a now it is the time alone, which does not change by itself: 2026-11-22T15:04:05Z.
func Ago(t metav1.Time, now time.Time) string {
	at, today := t.UTC(), now.UTC()
	if now.IsZero() {
		return at.Format(time.RFC3339)
	}
	layout := "15:04:05Z"
	if at.YearDay() != today.YearDay() || at.Year() != today.Year() {
		layout = time.RFC3339
	}
	return fmt.Sprintf("%s (%s ago)", at.Format(layout), Duration(now.Sub(t.Time)))
}

func sinceText(t *metav1.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return " since " + Ago(*t, now)
}

func pods(n int32) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

func disruptions(n int32) string {
	if n == 1 {
		return "1 disruption"
	}
	return fmt.Sprintf("%d disruptions", n)
}

func are(n int32) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func successors(n int32) string {
	if n == 1 {
		return "the pod's successor, once it is"
	}
	return "the pods' successors, once they are"
}
