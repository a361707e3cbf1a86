package flow

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	pb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

var update = flag.Bool("update", false, "write the golden files anew")

func refusal() Decision {
	return Decision{
		Time: time.Unix(1_700_000_000, 123).UTC(), Took: 140 * time.Microsecond, Review: "8a3c", Cluster: "c1", Controller: "meshpdb-controller-1", Version: "v0.1.0",
		Verdict: Refused, Reason: "InsufficientPods", Path: "eviction",
		Sentence: "evicting db-0 would leave 7 of 9 pods available, budget prod/db needs 8",
		User:     "system:serviceaccount:kube-system:cluster-autoscaler", UserPod: "cluster-autoscaler-0",
		Object: Object{
			Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "prod", Name: "db-0", UID: "u0", Eviction: true, IP: "10.1.0.7",
			Labels: map[string]string{"app": "db", "a": "b"}, OwnerKind: "StatefulSet", OwnerName: "db",
		},
		Budgets: []Budget{{"prod", "db", 4}, {"prod", "all", 1}},
		Arithmetic: budget.Decision{
			Verdict: budget.Deny, Reason: budget.Insufficient, Expected: 9, Desired: 8, Available: 8, InFlight: 1, Left: 7, Cost: 1, Unread: []string{"c3"},
		},
	}
}

func warning() Decision {
	return Decision{
		Time: time.Unix(1_700_000_001, 0).UTC(), Review: "8a3d", Cluster: "c2", Controller: "meshpdb-controller-2",
		Verdict: Exempted, Admitted: true, Reason: "Warned", Path: "intent", Sentence: "deleting node n1 takes 2 available pods", DryRun: true, User: "jane@example.com",
		Object:  Object{Version: "v1", Resource: "nodes", Kind: "Node", Name: "n1"},
		Budgets: []Budget{{"prod", "db", 4}},
	}
}

// TestGolden: what readers of the flow log may rely on changes on purpose only.
func TestGolden(t *testing.T) {
	for name, d := range map[string]Decision{"refusal": refusal(), "warning": warning()} {
		encoded, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true, Indent: "  "}.Marshal(d.Flow())
		if err != nil {
			t.Fatal(err)
		}
		// protojson varies its spaces on purpose.
		got := strings.ReplaceAll(string(encoded), ":  ", ": ") + "\n"
		path := "testdata/" + name + ".json"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for verdict, want := range map[Verdict]struct {
		verdict         pb.Verdict
		allowed, denied int
		drop            pb.DropReason
	}{
		0:        {verdict: pb.Verdict_ERROR},
		Allowed:  {verdict: pb.Verdict_FORWARDED, allowed: 2},
		Refused:  {verdict: pb.Verdict_DROPPED, denied: 2, drop: pb.DropReason_POLICY_DENIED},
		Exempted: {verdict: pb.Verdict_AUDIT, denied: 2},
		Failed:   {verdict: pb.Verdict_ERROR},
	} {
		d := refusal()
		d.Verdict = verdict
		f := d.Flow()
		if f.GetVerdict() != want.verdict || len(f.GetIngressAllowedBy()) != want.allowed || len(f.GetIngressDeniedBy()) != want.denied || f.GetDropReasonDesc() != want.drop {
			t.Errorf("%d: %v", verdict, f)
		}
	}
}

func TestRequests(t *testing.T) {
	for want, d := range map[string]Decision{
		"POST /api/v1/namespaces/n/pods/p/eviction 201":      {Admitted: true, Object: Object{Version: "v1", Resource: "pods", Namespace: "n", Name: "p", Eviction: true}},
		"POST /api/v1/namespaces/n/pods/p/eviction 429":      {Object: Object{Version: "v1", Resource: "pods", Namespace: "n", Name: "p", Eviction: true}},
		"DELETE /api/v1/namespaces/n/pods/p 200":             {Admitted: true, Object: Object{Version: "v1", Resource: "pods", Namespace: "n", Name: "p"}},
		"DELETE /api/v1/nodes/n1 429":                        {Object: Object{Version: "v1", Resource: "nodes", Name: "n1"}},
		"DELETE /apis/apps/v1/namespaces/n/daemonsets/d 200": {Admitted: true, Object: Object{Group: "apps", Version: "v1", Resource: "daemonsets", Namespace: "n", Name: "d"}},
	} {
		h := d.Flow().GetL7().GetHttp()
		status := map[uint32]string{200: "200", 201: "201", 429: "429"}[h.GetCode()]
		if got := h.GetMethod() + " " + h.GetUrl() + " " + status; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestAskers(t *testing.T) {
	for user, want := range map[string]struct{ namespace, pod, service, workload string }{
		"system:serviceaccount:kube-system:descheduler": {"kube-system", "x-0", "", "ServiceAccount/descheduler"},
		"system:serviceaccount:odd":                     {"", "", "system:serviceaccount:odd", "User/system:serviceaccount:odd"},
		"jane@example.com":                              {"", "", "jane@example.com", "User/jane@example.com"},
	} {
		d := refusal()
		d.User, d.UserPod = user, "x-0"
		f := d.Flow()
		s, w := f.GetSource(), f.GetSource().GetWorkloads()[0]
		if s.GetNamespace() != want.namespace || s.GetPodName() != want.pod || f.GetSourceService().GetName() != want.service || w.GetKind()+"/"+w.GetName() != want.workload {
			t.Errorf("%s: %v, %v", user, s, f.GetSourceService())
		}
	}
}

// sameJSON holds appendJSON against protojson.
func sameJSON(t *testing.T, d *Decision) {
	t.Helper()
	line := d.appendJSON(nil)
	if !json.Valid(line) || bytes.ContainsAny(line, "\n\r") {
		t.Fatalf("not one line of JSON: %s", line)
	}
	var read pb.Flow
	if err := protojson.Unmarshal(line, &read); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	want := d.Flow()
	if !proto.Equal(unpacked(t, &read), unpacked(t, want)) {
		t.Fatalf("reads as\n%v\nwant\n%v", &read, want)
	}
}

// unpacked has the extensions in an order that does not vary.
func unpacked(t *testing.T, f *pb.Flow) *pb.Flow {
	t.Helper()
	var fields structpb.Struct
	if err := f.GetExtensions().UnmarshalTo(&fields); err != nil {
		t.Fatal(err)
	}
	f = proto.CloneOf(f)
	var err error
	if f.Extensions.Value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(&fields); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestJSON: the flow log is what protojson would write, whatever is known of a decision.
func TestJSON(t *testing.T) {
	all := map[string]Decision{"refusal": refusal(), "warning": warning(), "nothing": {}}
	for verdict := range Failed + 1 {
		d := refusal()
		d.Verdict, d.Admitted = verdict, verdict == Allowed
		all[fmt.Sprint("verdict ", verdict)] = d
	}
	d := refusal()
	d.Object.IP, d.Object.OwnerName, d.Object.Labels, d.Arithmetic.Unread, d.UserPod = "fd00::7", "", nil, nil, ""
	d.Arithmetic.Left, d.Arithmetic.Available = -1, 1<<40
	d.Sentence = "\"quoted\" <html> \u2028 \\ é 😀"
	all["odd"] = d
	for name, d := range all {
		t.Run(name, func(t *testing.T) { sameJSON(t, &d) })
	}
}

// FuzzFlow: whatever a caller names himself and his pods, a flow can be encoded, and what people see of it is one line.
func FuzzFlow(f *testing.F) {
	f.Add("jane", "no room")
	f.Add("jane\x1b[2J\nNov 22 forged: FORWARDED", "a\xff\x00b")
	f.Add("system:serviceaccount:a:b\u0085c", strings.Repeat("é", maxSentence))
	f.Fuzz(func(t *testing.T, user, sentence string) {
		d := refusal()
		d.User, d.Sentence = user, sentence
		flow := d.Flow()
		if _, err := proto.Marshal(flow); err != nil {
			t.Fatal(err)
		}
		line, err := protojson.Marshal(flow)
		if err != nil {
			t.Fatal(err)
		}
		sameJSON(t, &d)
		if len(sentence) > 100 && len(user) < 1000 && len(line) > 1<<15 {
			t.Errorf("a line of %d bytes", len(line))
		}
		//lint:ignore SA1019 it is what is printed
		for _, shown := range []string{flow.GetSummary(), flow.GetSourceService().GetName(), flow.GetSource().GetNamespace(), flow.GetSource().GetWorkloads()[0].GetName()} {
			if strings.ContainsFunc(shown, unicode.IsControl) {
				t.Errorf("%q would steer a terminal", shown)
			}
		}
	})
}

func BenchmarkFlow(b *testing.B) {
	d := refusal()
	b.ReportAllocs()
	for b.Loop() {
		d.Flow()
	}
}

func BenchmarkLine(b *testing.B) {
	d := refusal()
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = d.AppendLine(line[:0])
	}
	b.SetBytes(int64(len(line)))
}
