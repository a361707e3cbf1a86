package sandbox

import (
	"strings"
	"testing"
	"time"
)

func TestOptionsDefaults(t *testing.T) {
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.Clusters != 3 || o.Instances != 1 || o.Nodes != 3 || o.Controllers != 0 || o.Progress == nil {
		t.Errorf("defaults are %+v", o)
	}
	if o, err = (Options{NoMesh: true}).withDefaults(); err != nil || o.Instances != 0 {
		t.Errorf("without a mesh: %d instances, %v", o.Instances, err)
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, o := range map[string]Options{
		"clusters -1":                {Clusters: -1},
		"clusters 100":               {Clusters: 100},
		"instances 10":               {Instances: 10},
		"nodes 1001":                 {Nodes: 1001},
		"controllers 10":             {Controllers: 10},
		"pod start -1s":              {PodStart: Range{Min: -time.Second, Max: -time.Second}},
		"pod stop 2s-1s: ends":       {PodStop: Range{Min: 2 * time.Second, Max: time.Second}},
		"pod stop 0s-2h0m0s: longer": {PodStop: Range{Max: 2 * time.Hour}},
		"round-trip time -1s":        {RTT: -time.Second},
		"even number":                {RTT: 3 * time.Millisecond},
		"no mesh":                    {NoMesh: true, Instances: 1},
	} {
		if _, err := o.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", o, err, want)
		}
	}
}

func TestRange(t *testing.T) {
	for text, want := range map[string]Range{
		"2s-8s":     {2 * time.Second, 8 * time.Second},
		"3s":        {3 * time.Second, 3 * time.Second},
		"0s-1m30s":  {0, 90 * time.Second},
		"10ms-10ms": {10 * time.Millisecond, 10 * time.Millisecond},
	} {
		var got Range
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("Set(%q) = %v, %v", text, got, err)
		}
		if back, err := ParseRange(want.String()); err != nil || back != want {
			t.Errorf("ParseRange(%q) = %v, %v", want.String(), back, err)
		}
	}
	for _, text := range []string{"", "x", "1s-", "-1s", "8s-2s", "1s-2s-3s"} {
		if got, err := ParseRange(text); err == nil {
			t.Errorf("ParseRange(%q) = %v, want an error", text, got)
		}
	}
}
