package roster

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func replica(name string, written time.Time) Replica {
	return Replica{
		Name: name, Cluster: "c1", Version: "v0.1.0", Written: written, Started: noon.Add(-time.Hour), Leader: true,
		NotReady: "its informers are not in step yet", Problem: "no instance",
		Peers:        []Store{{Name: "c2", Since: noon, RoundTrip: 1.5}, {Name: "c3", Message: "its kvstore is unreachable", Since: noon}},
		Instances:    []Store{{Name: "127.0.0.1:2379", Since: noon, RoundTrip: 0.3}},
		Certificates: []Certificate{{Use: "peer c2", File: "/c2.crt", Expires: noon}, {Use: "webhook", File: "/tls.crt", Message: "is gone"}},
	}
}

// TestFormat: entries that are out there are read by every version.
func TestFormat(t *testing.T) {
	data, err := Put(nil, replica("a", noon))
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile(filepath.Join("testdata", "replica.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if data["a"] != string(golden) {
		t.Errorf("written\n%s\nwant\n%s", data["a"], golden)
	}
	all, err := Read(map[string]string{"a": string(golden) + "future: field\n"})
	if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0], replica("a", noon)) {
		t.Errorf("read %+v, %v", all, err)
	}
}

func TestPutForgetsTheDead(t *testing.T) {
	data := map[string]string{"nonsense": "{", "other": "name: else\n"}
	for name, age := range map[string]time.Duration{"dead": Forgotten + time.Second, "silent": Forgotten - time.Second, "a": 2 * Forgotten} {
		one, err := Put(nil, replica(name, noon.Add(-age)))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(data, one)
	}
	before := maps.Clone(data)
	after, err := Put(data, replica("a", noon))
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(after)); !slices.Equal(got, []string{"a", "silent"}) {
		t.Errorf("left are %v", got)
	}
	if !maps.Equal(data, before) {
		t.Error("the object of the caller was changed")
	}
	if left := Remove(after, "a"); len(left) != 1 || len(after) != 2 {
		t.Errorf("left are %v of %v", left, after)
	}
	if _, err := Put(nil, Replica{}); err == nil {
		t.Error("a replica without a name was written")
	}
}

func TestReadNamesWhatItCannotRead(t *testing.T) {
	good, _ := Put(nil, replica("b", noon))
	good["a"], good["c"] = "name: x\n", "}{"
	all, err := Read(good)
	if len(all) != 1 || all[0].Name != "b" {
		t.Errorf("read %+v", all)
	}
	for _, words := range []string{"entry a", "entry c"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v does not say %q", err, words)
		}
	}
}

func TestAge(t *testing.T) {
	r := replica("a", noon)
	if r.IsStale(noon.Add(Stale)) || !r.IsStale(noon.Add(Stale+1)) || r.Age(noon.Add(time.Minute)) != time.Minute {
		t.Error("the age is wrong")
	}
	later := replica("a", noon.Add(time.Minute))
	later.Peers[0].RoundTrip, later.Instances[0].RoundTrip = 7, 8
	if !r.Same(later) || r.Peers[0].RoundTrip != 1.5 {
		t.Error("time alone is a change")
	}
	for what, change := range map[string]func(*Replica){
		"a peer": func(r *Replica) { r.Peers[0].Message = "gone" }, "an instance": func(r *Replica) { r.Instances = nil },
		"the leader": func(r *Replica) { r.Leader = false }, "a certificate": func(r *Replica) { r.Certificates[0].Expires = noon.Add(1e9) },
	} {
		other := replica("a", noon)
		change(&other)
		if r.Same(other) {
			t.Errorf("%s is no change", what)
		}
	}
}
