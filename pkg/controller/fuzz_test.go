package controller

import (
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// FuzzAnnotations makes budgets of anything that a namespace's user may write on a Service: the bound is what was
// written, or refused by its annotation's name in a sentence that fits into an Event.
func FuzzAnnotations(f *testing.F) {
	for _, text := range []string{
		"1", "0", "30%", "100%", "101%", "-1", "+1", "1.5", "1e3", "0x10", "half", "", "%", " 1", "1 ", "01", "00%", "４", "1\n",
		"2147483648", "4294967297", "999999999", "9223372036854775808", strings.Repeat("1", 100_000), strings.Repeat("\x00", 20), "\xff",
	} {
		f.Add(text, "", true, false)
		f.Add(text, text, true, true)
		f.Add("", text, false, true)
	}
	f.Fuzz(func(t *testing.T, maximum, minimum string, hasMaximum, hasMinimum bool) {
		service := globalService("n", "db")
		if hasMaximum {
			service.Annotations[v1alpha1.MaxUnavailableAnnotation] = maximum
		}
		if hasMinimum {
			service.Annotations[v1alpha1.MinAvailableAnnotation] = minimum
		}
		spec, asked, err := specOf(service)
		if asked != (hasMaximum || hasMinimum) || spec.Service != "db" {
			t.Fatalf("asked is %v, spec %+v", asked, spec)
		}
		if err != nil {
			if !asked || len(err.Error()) > 300 || !strings.Contains(err.Error(), "meshpdb.io/") || !strings.Contains(err.Error(), "must be a number of pods") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		wantBound(t, spec.MaxUnavailable, maximum, hasMaximum)
		wantBound(t, spec.MinAvailable, minimum, hasMinimum)
	})
}

func wantBound(t *testing.T, got *intstr.IntOrString, text string, has bool) {
	t.Helper()
	switch {
	case !has && got == nil:
	case !has || got == nil:
		t.Fatalf("%q became %v", text, got)
	default:
		number, percent := strings.CutSuffix(text, "%")
		value, err := strconv.ParseUint(number, 10, 31)
		written := got.IntVal
		if got.Type == intstr.String {
			scaled, scaleErr := intstr.GetScaledValueFromIntOrPercent(got, 100, true)
			if scaleErr != nil {
				t.Fatal(scaleErr)
			}
			written = int32(scaled)
		}
		if err != nil || uint64(written) != value || percent != (got.Type == intstr.String) || percent && value > 100 {
			t.Fatalf("%q became %v", text, got)
		}
	}
}
