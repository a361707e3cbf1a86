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
func Ago(t metav1.Time, now time.Time) string {
	at, today := t.UTC(), now.UTC()
	layout := "15:04:05Z"
	if at.YearDay() != today.YearDay() || at.Year() != today.Year() {
		layout = time.RFC3339
	}
	return fmt.Sprintf("%s (%s ago)", at.Format(layout), Duration(now.Sub(t.Time)))
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
		return "its successor, once it is"
	}
	return "their successors, once they are"
}
