package wire

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden() map[string]Record {
	return map[string]Record{
		"incarnation.json":     &Incarnation{ID: "6f1c", Controller: "meshpdb-controller-0"},
		"marker.json":          &Marker{Incarnation: "6f1c"},
		"budget-max.json":      &Budget{UID: "b-1", Service: "db", MaxUnavailable: "1", Expected: 3, View: []string{"eu-1", "us-1"}, Exported: true},
		"budget-min.json":      &Budget{UID: "b-2", Service: "db", MinAvailable: "60%", View: []string{"eu-1"}, Undecided: "service prod/db has no selector"},
		"budget-deleted.json":  &Budget{UID: "b-3", Tombstone: true},
		"pod-available.json":   &Pod{UID: "p-1", Name: "db-0", IPs: []string{"10.1.0.7", "fd00::7"}},
		"pod-unavailable.json": &Pod{UID: "p-2", Name: "db-1", Unavailable: Terminating},
		"waiters.json":         &Waiters{Pods: []Waiter{{UID: "p-1", Pod: "db-0", Ticket: 7, WaitedMillis: 10400, LastMillis: 3, EveryMillis: 5012}}},
		"claim.json":           &Claim{ID: "c-1", UID: "p-1", Pod: "db-0", Budgets: []string{"prod/db"}, Views: []string{"62863b3073ab1b58"}, State: Granted, Ticket: 7, Seq: 1, Reason: Eviction},
	}
}

func TestGoldenRecords(t *testing.T) {
	for name, record := range golden() {
		file := filepath.Join("testdata", name)
		data, err := Marshal(record)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if *update {
			if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(data)+"\n" != string(want) {
			t.Errorf("%s: version 1 must stay readable by its peers\n got %s\nwant %s", name, data, want)
		}
		back := reflect.New(reflect.TypeOf(record).Elem()).Interface().(Record)
		if err := Unmarshal(want, back); err != nil || !reflect.DeepEqual(back, record) {
			t.Errorf("%s: read back %+v, %v", name, back, err)
		}
	}
}

func TestFieldsOfLaterVersionsAreIgnored(t *testing.T) {
	var p Pod
	if err := Unmarshal([]byte(`{"uid":"p","name":"db-0","unavailable":"Hibernating","later":{"x":1}}`), &p); err != nil {
		t.Fatal(err)
	}
	if p.Unavailable == Available {
		t.Error("an unknown reason must read as unavailable")
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, tt := range []struct {
		into Record
		data string
		want string
	}{
		{&Incarnation{}, `{}`, "id is empty"},
		{&Marker{}, `{}`, "incarnation is empty"},
		{&Budget{}, `{"service":"db"}`, "exactly one of minAvailable and maxUnavailable"},
		{&Budget{}, `{"service":"db","minAvailable":"1","maxUnavailable":"1"}`, "exactly one of minAvailable and maxUnavailable"},
		{&Budget{}, `{"service":"db","minAvailable":"101%"}`, `"101%" is neither`},
		{&Budget{}, `{"service":"db","minAvailable":"-1"}`, `"-1" is neither`},
		{&Budget{}, `{"minAvailable":"1"}`, "service is empty"},
		{&Budget{}, `{"service":"db","minAvailable":"1","expected":-1}`, "expected -1 is out of range"},
		{&Budget{}, `{"minAvailable":"1","service":"` + strings.Repeat("x", 254) + `"}`, "service exceeds 253 characters"},
		{&Budget{}, `{"minAvailable":"1","service":"x","view":["` + strings.Repeat("x", 254) + `"]}`, "view exceeds 253 characters"},
		{&Budget{}, `{"minAvailable":"1","service":"x","view":["x"` + strings.Repeat(`,"x"`, 1024) + `]}`, "view: 1025 clusters exceed 1024"},
		{&Pod{}, `{"uid":"` + strings.Repeat("x", 254) + `"}`, "uid exceeds 253 characters"},
		{&Pod{}, `{"uid":"x","name":"` + strings.Repeat("x", 254) + `"}`, "name exceeds 253 characters"},
		{&Claim{}, `{"id":"` + strings.Repeat("x", 254) + `","uid":"x","state":"Granted"}`, "id exceeds 253 characters"},
		{&Claim{}, `{"id":"x","uid":"` + strings.Repeat("x", 254) + `","state":"Granted"}`, "uid exceeds 253 characters"},
		{&Claim{}, `{"id":"x","uid":"x","state":"Granted","pod":"` + strings.Repeat("x", 254) + `"}`, "pod exceeds 253 characters"},
		{&Pod{}, `{"name":"x"}`, "uid is empty"},
		{&Pod{}, `{"uid":"x","ips":["nonsense"]}`, "ips: "},
		{&Claim{}, `{"uid":"x","state":"Granted"}`, "id is empty"},
		{&Claim{}, `{"id":"x","state":"Granted"}`, "uid is empty"},
		{&Claim{}, `{"id":"x","uid":"y"}`, "state is empty"},
		{&Claim{}, `{"id":"x","uid":"y","state":"Granted","ticket":18446744073709551615}`, "out of range"},
		{&Waiters{}, `{"pods":[{"pod":"x"}]}`, "uid is empty"},
		{&Waiters{}, `{"pods":[{"uid":"x","ticket":18446744073709551615}]}`, "out of range"},
		{&Waiters{}, `{"pods":[{"uid":"x"}]}`, "ticket 0 is out of range"},
		{&Waiters{}, `{"pods":[{"uid":"x","pod":"` + strings.Repeat("x", 254) + `","ticket":1}]}`, "exceed 253 characters"},
		{&Waiters{}, `{"pods":[{"uid":"x","ticket":1,"everyMillis":-1}]}`, "times of pod x are out of range"},
		{&Waiters{}, `{"pods":[{"uid":"x","ticket":1,"waitedMillis":9223372036854775807}]}`, "times of pod x are out of range"},
		{&Waiters{}, `{"pods":[` + strings.Repeat(`{"uid":"x"},`, 16) + `{"uid":"x"}]}`, "17 pods exceed 16"},
		{&Claim{}, `nonsense`, "invalid character"},
		{&Claim{}, `{"id":"` + strings.Repeat("x", MaxSize) + `"}`, "exceed"},
	} {
		if err := Unmarshal([]byte(tt.data), tt.into); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60s: got %v, want %q", tt.data, err, tt.want)
		}
	}
	if _, err := Marshal(&Pod{UID: strings.Repeat("x", MaxSize)}); err == nil {
		t.Error("an oversized record was encoded")
	}
}

func TestKeysRoundTrip(t *testing.T) {
	for key, k := range map[string]Key{
		"cilium/state/meshpdb/v1/eu-1/incarnation":           {Kind: KindIncarnation, Cluster: "eu-1"},
		"cilium/state/meshpdb/v1/eu-1/marker":                {Kind: KindMarker, Cluster: "eu-1"},
		"cilium/state/meshpdb/v1/eu-1/budgets/prod/db":       {Kind: KindBudget, Cluster: "eu-1", Namespace: "prod", Budget: "db"},
		"cilium/state/meshpdb/v1/eu-1/pods/prod/db/u-1":      {Kind: KindPod, Cluster: "eu-1", Namespace: "prod", Budget: "db", ID: "u-1"},
		"cilium/state/meshpdb/v1/eu-1/claims/prod/c-1":       {Kind: KindClaim, Cluster: "eu-1", Namespace: "prod", ID: "c-1"},
		"cilium/state/meshpdb/v1/eu-1/waiters/prod/db/pod-1": {Kind: KindWaiters, Cluster: "eu-1", Namespace: "prod", Budget: "db", ID: "pod-1"},
	} {
		if got := k.String(); got != key {
			t.Errorf("got %s, want %s", got, key)
		}
		if got, err := ParseKey("eu-1", key); err != nil || got != k {
			t.Errorf("%s: got %+v, %v", key, got, err)
		}
	}
	for _, key := range []string{"cilium/state/services/v1/eu-1/x/y", "cilium/state/meshpdb/v1/eu-2/marker", "cilium/state/meshpdb/v1/eu-1/later/x", "cilium/state/meshpdb/v1/eu-1/budgets//x", "cilium/state/meshpdb/v1/eu-1/pods/a/b/"} {
		if k, err := ParseKey("eu-1", key); err == nil {
			t.Errorf("%s: parsed as %+v", key, k)
		}
	}
}

// TestNoRecordTellsATime: clocks of clusters may differ and jump, for nothing
// that crosses clusters says when. How long somebody has waited is a duration.
func TestNoRecordTellsATime(t *testing.T) {
	var look func(path string, kind reflect.Type)
	look = func(path string, kind reflect.Type) {
		switch kind.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			look(path, kind.Elem())
		case reflect.Map:
			look(path+" (key)", kind.Key())
			look(path, kind.Elem())
		case reflect.Struct:
			if kind == reflect.TypeFor[time.Time]() {
				t.Errorf("%s tells a time", path)
				return
			}
			for i := range kind.NumField() {
				look(path+"."+kind.Field(i).Name, kind.Field(i).Type)
			}
		}
	}
	for _, r := range golden() {
		look(reflect.TypeOf(r).Elem().Name(), reflect.TypeOf(r))
	}
}
