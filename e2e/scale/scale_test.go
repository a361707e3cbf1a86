package scale

import (
	"os"
	"testing"
	"time"
)

// Bounds with room for a busy machine, yet far below what it takes to keep
// whole pods, or to look at all budgets for each of them: at 3,000 pods that
// was 40 MB of heap, and 14 s until they were published.
const (
	mostHeapPerPod = 6 << 10
	mostRSS        = 200 << 20
	latestReady    = 20 * time.Second
)

func TestCostOfPods(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	r, err := Measure(t.Context(), Options{Pods: 3000, Budgets: 300, Timeout: 2 * time.Minute, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of heap per pod", r.HeapPerPod())
	if r.HeapPerPod() > mostHeapPerPod || r.HeapPerPod() <= 0 {
		t.Errorf("%d bytes of heap per pod, more than %d: %s with them, %s without", r.HeapPerPod(), mostHeapPerPod, r.Again.Settled, r.Empty)
	}
	for name, run := range map[string]Run{"first": r.First, "again": r.Again} {
		if run.Ready > latestReady {
			t.Errorf("%s start: ready after %s, later than %s", name, run.Ready, latestReady)
		}
		if run.Settled.PeakRSS > mostRSS || run.Settled.PeakRSS == 0 {
			t.Errorf("%s start: %s, more than %d MB", name, run.Settled, mostRSS>>20)
		}
		if run.Published < run.Ready/2 || run.Written == 0 {
			t.Errorf("%s start: %+v was not measured", name, run)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := Options{}.withDefaults()
	if err != nil || o.Pods != 3000 || o.Budgets != 300 || o.Namespaces != 3 || o.Timeout == 0 {
		t.Errorf("got %+v %v", o, err)
	}
	for name, o := range map[string]Options{
		"fewer pods than budgets":       {Pods: 5, Budgets: 6},
		"fewer budgets than namespaces": {Pods: 10, Budgets: 5, Namespaces: 6},
		"negative":                      {Pods: 10, Budgets: 5, Namespaces: -1},
	} {
		if _, err := o.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	spread := population{Options: Options{Pods: 100, Budgets: 7, Namespaces: 2}}
	pods := 0
	for i := range spread.Budgets {
		pods += spread.replicas(i)
	}
	if pods != 100 {
		t.Errorf("%d pods are spread over the budgets", pods)
	}
}

func TestReadingUsage(t *testing.T) {
	status := []byte("Name:\tx\nVmHWM:\t   12345 kB\nVmRSS:\t  1000 kB\n")
	if n := kilobytes(status, "VmHWM:"); n != 12345<<10 {
		t.Errorf("got %d", n)
	}
	if n := kilobytes(status, "VmSwap:"); n != 0 {
		t.Errorf("got %d", n)
	}
	metrics := []byte("# HELP a_total x\na_total 1.5\na_total_more 7\n")
	if v := sample(metrics, "a_total"); v != 1.5 {
		t.Errorf("got %v", v)
	}
}
