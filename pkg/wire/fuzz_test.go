package wire

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// seed adds the values of testdata, which stand for what peers write.
func seed(f *testing.F, add func(data []byte)) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	if err != nil || len(files) < len(golden()) {
		f.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		add(data)
	}
}

func kinds() []Record {
	return []Record{&Incarnation{}, &Marker{}, &Budget{}, &Pod{}, &Claim{}, &Waiters{}}
}

// FuzzUnmarshal: what is taken in is within its bounds and means the same after it was written and read again;
// what is refused says of which kind it was, in few words.
func FuzzUnmarshal(f *testing.F) {
	seed(f, func(data []byte) { f.Add(data) })
	for _, data := range []string{
		``, `null`, `{}`, `[]`, `{"uid":null}`, `{"uid":"x","uid":"y"}`, `{"UID":"x"}`, "{\"uid\":\"\xff\"}",
		`{"service":"db","minAvailable":"1","expected":1e9}`, `{"service":"db","maxUnavailable":"0%","view":[]}`,
		`{"id":"c","uid":"u","state":"Later","ticket":4611686018427387904,"seq":18446744073709551615}`,
		strings.Repeat(`{"a":`, 20000) + strings.Repeat(`}`, 20000), strings.Repeat(" ", MaxSize+1),
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, r := range kinds() {
			if err := Unmarshal(data, r); err != nil {
				wantError(t, r, err, len(data))
				continue
			}
			if len(data) > MaxSize {
				t.Fatalf("%T: %d bytes were taken in", r, len(data))
			}
			bounded(t, r)
			again(t, r, data)
		}
	})
}

// again writes a record and reads it back.
func again(t *testing.T, r Record, data []byte) {
	t.Helper()
	text, err := Marshal(r)
	if err != nil {
		// Escaping may lengthen a value; one near the limit need not fit again.
		if len(data) < MaxSize/8 {
			t.Fatalf("%T: decoded but not encoded: %v", r, err)
		}
		return
	}
	back := reflect.New(reflect.TypeOf(r).Elem()).Interface().(Record)
	if err := Unmarshal(text, back); err != nil {
		t.Fatalf("%T: %s cannot be read back: %v", r, text, err)
	}
	// Empty lists and absent ones mean the same.
	if twice, err := Marshal(back); err != nil || string(twice) != string(text) {
		t.Fatalf("%T: written %s, read back as %s, %v", r, text, twice, err)
	}
}

// bounded checks what arithmetic and memory rely on.
func bounded(t *testing.T, r Record) {
	t.Helper()
	ok := true
	switch r := r.(type) {
	case *Incarnation:
		ok = r.ID != ""
	case *Marker:
		ok = r.Incarnation != ""
	case *Budget:
		ok = r.Tombstone || r.Expected >= 0 && r.Expected <= maxCount && len(r.View) <= maxView && len(r.Service) <= maxName
	case *Pod:
		ok = r.UID != "" && len(r.UID) <= maxName && len(r.Name) <= maxName
	case *Claim:
		ok = r.ID != "" && r.UID != "" && r.Ticket <= maxTicket && len(r.ID) <= maxName && len(r.UID) <= maxName
	case *Waiters:
		ok = len(r.Pods) <= maxWaiters
		for _, p := range r.Pods {
			ok = ok && p.UID != "" && p.WaitedMillis >= 0 && p.WaitedMillis <= MaxMillis && p.LastMillis >= 0 && p.EveryMillis >= 0
		}
	}
	if !ok {
		t.Fatalf("%T: %+v was taken in", r, r)
	}
}

func wantError(t *testing.T, r Record, err error, size int) {
	t.Helper()
	if want := "decode " + reflect.TypeOf(r).String() + ": "; !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("%T: %q does not begin with %q", r, err, want)
	}
	// It may quote one field at the most.
	if len(err.Error()) > 4*size+500 {
		t.Fatalf("%T: %d bytes of error for %d", r, len(err.Error()), size)
	}
}

// FuzzParseKey: a key that is understood is the only one that spells what it names, and all of its parts are there.
func FuzzParseKey(f *testing.F) {
	for _, key := range []string{
		"incarnation", "marker", "budgets/prod/db", "pods/prod/db/u-1", "claims/prod/c-1", "waiters/prod/db/pod-1",
		"later/x", "budgets//x", "pods/a/b/", "claims/../x", "pods/a/b/c/d", "", "/", "marker/", "Marker",
	} {
		f.Add("eu-1", ClusterPrefix("eu-1")+key)
		f.Add("eu-2", ClusterPrefix("eu-1")+key)
	}
	f.Add("", Root)
	f.Fuzz(func(t *testing.T, cluster, key string) {
		k, err := ParseKey(cluster, key)
		if err != nil {
			if k != (Key{}) || !strings.HasPrefix(err.Error(), "parse key ") {
				t.Fatalf("got %+v, %v", k, err)
			}
			return
		}
		if k.String() != key || k.Cluster != cluster || !strings.HasPrefix(key, ClusterPrefix(cluster)) {
			t.Fatalf("%q of %q was parsed as %+v", key, cluster, k)
		}
		parts := map[Kind][]string{
			KindIncarnation: {}, KindMarker: {}, KindBudget: {k.Namespace, k.Budget}, KindPod: {k.Namespace, k.Budget, k.ID},
			KindClaim: {k.Namespace, k.ID}, KindWaiters: {k.Namespace, k.Budget, k.ID},
		}
		named, known := parts[k.Kind]
		if !known || strings.Join(named, "") != k.Namespace+k.Budget+k.ID {
			t.Fatalf("%q has parts that do not belong to it: %+v", key, k)
		}
		for _, part := range named {
			if part == "" || strings.Contains(part, "/") {
				t.Fatalf("%q: part %q of %+v", key, part, k)
			}
		}
	})
}
