package sandbox

import (
	"reflect"
	"testing"
	"time"
)

func TestParseAudit(t *testing.T) {
	content := []byte(`{"kind":"Event","stage":"ResponseComplete","verb":"update","user":{"username":"u","extra":{"authentication.kubernetes.io/credential-id":["JTI=1"]}},"objectRef":{"apiGroup":"g","resource":"pods","namespace":"n","name":"p","subresource":"status"},"responseStatus":{"code":409},"annotations":{"authorization.k8s.io/decision":"forbid","deletions.meshpdb.io/break-glass":"why"},"requestReceivedTimestamp":"2026-01-02T03:04:05.000006Z","stageTimestamp":"2026-01-02T03:04:05.100000Z"}
{"stage":"ResponseStarted","verb":"watch","requestReceivedTimestamp":"2026-01-02T03:04:06.000000Z","stageTimestamp":"2026-01-02T03:04:06.000000Z"}
{"stage":"ResponseComplete","verb":"watch","requestReceivedTimestamp":"2026-01-02T03:04:06.000000Z","stageTimestamp":"2026-01-02T03:09:06.000000Z"}
{"stage":"ResponseCompl`)
	all, err := parseAudit(content, time.Time{})
	if err != nil || len(all) != 2 {
		t.Fatalf("got %+v, %v, want two events", all, err)
	}
	want := AuditEvent{
		Verb: "update", Group: "g", Resource: "pods", Subresource: "status", Namespace: "n", Name: "p", User: "u", Credential: "JTI=1", Code: 409, Denied: true,
		Annotations: map[string]string{"authorization.k8s.io/decision": "forbid", "deletions.meshpdb.io/break-glass": "why"},
		Time:        time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Done: time.Date(2026, 1, 2, 3, 4, 5, 100_000_000, time.UTC),
	}
	got := all[0]
	got.Time, got.Done = got.Time.UTC(), got.Done.UTC()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if all[1].Verb != "watch" {
		t.Errorf("got %+v, want the beginning of a watch", all[1])
	}
	if late, err := parseAudit(content, want.Time.Add(time.Microsecond)); err != nil || len(late) != 1 {
		t.Errorf("since later: got %+v, %v, want the watch alone", late, err)
	}
	if _, err := parseAudit([]byte("nonsense\n"), time.Time{}); err == nil {
		t.Error("nonsense was parsed")
	}
}
