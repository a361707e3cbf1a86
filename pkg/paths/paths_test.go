package paths

import (
	"flag"
	"os"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "write docs/paths.md anew")

func TestDocumentIsUpToDate(t *testing.T) {
	const file = "../../docs/paths.md"
	if *update {
		if err := os.WriteFile(file, []byte(Document()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stands, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(stands) != Document() {
		t.Error("docs/paths.md is not what the table says: run make generate")
	}
}

func TestCallers(t *testing.T) {
	const accounts = "system:serviceaccount:kube-system:"
	for _, c := range []struct {
		user string
		want Path
	}{
		{"jane", Deletion},
		{"kubernetes-admin", Deletion},
		{accounts + "replicaset-controller", ReplicaSet},
		{accounts + "statefulset-controller", StatefulSet},
		{accounts + "daemon-set-controller", DaemonSet},
		{accounts + "job-controller", Job},
		{accounts + "node-controller", TaintEviction},
		{accounts + "pod-garbage-collector", PodGC},
		{accounts + "namespace-controller", Namespace},
		{accounts + "generic-garbage-collector", GarbageCollector},
		{"system:kube-scheduler", Preemption},
		{"system:kube-controller-manager", ControlPlane},
		// Tools that live beside the controllers are people's tools.
		{accounts + "cluster-autoscaler", Deletion},
		{accounts + "descheduler", Deletion},
		// Whoever may make ServiceAccounts elsewhere may name them as he likes.
		{"system:serviceaccount:default:pod-garbage-collector", Deletion},
		{"system:serviceaccount:kube-system:", Deletion},
		{"pod-garbage-collector", Deletion},
		{"system:kube-scheduler ", Deletion},
	} {
		if got := OfDeletion(authenticationv1.UserInfo{Username: c.user}); got != c.want {
			t.Errorf("%q: %s, want %s", c.user, got, c.want)
		}
	}
	if got := OfDeletion(authenticationv1.UserInfo{Username: "system:node:n1", Groups: []string{"system:authenticated", "system:nodes"}}); got != Kubelet {
		t.Errorf("a node: %s", got)
	}
}

// Every path that a caller or an eviction may take stands in the table, once.
func TestTableIsComplete(t *testing.T) {
	rows := map[Path]int{}
	for _, row := range Table {
		rows[row.Path]++
		if row.What == "" || row.Request == "" || row.Refused == "" || row.Treatment < Enforce || row.Treatment > Skip {
			t.Errorf("row %s is not complete", row.Path)
		}
	}
	paths := map[Path]bool{Eviction: true, Deletion: true, Kubelet: true}
	for _, p := range serviceAccounts {
		paths[p] = true
	}
	for _, p := range users {
		paths[p] = true
	}
	for p := range paths {
		if rows[p] != 1 {
			t.Errorf("%s has %d rows", p, rows[p])
		}
		delete(rows, p)
	}
	for p := range rows {
		t.Errorf("nobody comes by %s", p)
	}
}

func TestJudgement(t *testing.T) {
	node := func(ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
		n := &corev1.Node{}
		n.Name = "n1"
		n.Spec.Taints = taints
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: ready}}
		return n
	}
	taint := func(key string) corev1.Taint { return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute} }
	minute := int64(60)
	for name, c := range map[string]struct {
		path  Path
		facts Facts
		want  Verdict
	}{
		"eviction":                   {Eviction, Facts{Ready: true}, Verdict{Treatment: Enforce}},
		"rollout":                    {ReplicaSet, Facts{Ready: true}, Verdict{Treatment: Enforce}},
		"rollout of a broken pod":    {ReplicaSet, Facts{}, Verdict{Treatment: Enforce, Free: true}},
		"rolling update":             {StatefulSet, Facts{Ready: true}, Verdict{Treatment: Enforce}},
		"rolling update, broken pod": {StatefulSet, Facts{}, Verdict{Treatment: Enforce, Free: true}},
		"daemon":                     {DaemonSet, Facts{Ready: true}, Verdict{Treatment: Enforce}},
		"broken daemon":              {DaemonSet, Facts{}, Verdict{Treatment: Enforce, Free: true}},
		"daemon on another's node":   {DaemonSet, Facts{Ready: true, Unselected: true}, Verdict{Treatment: Account}},
		"preemption":                 {Preemption, Facts{Ready: true}, Verdict{Treatment: Account}},
		"preemption, enforced":       {Preemption, Facts{Ready: true, EnforcePreemption: true}, Verdict{Treatment: Enforce, RetryAfter: preemptionRetryAfter}},
		"node gone":                  {TaintEviction, Facts{Ready: true}, Verdict{Treatment: Account}},
		"node not ready":             {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionUnknown, taint("x"))}, Verdict{Treatment: Account}},
		"node unreachable":           {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue, taint(corev1.TaintNodeUnreachable))}, Verdict{Treatment: Account}},
		"node out of service":        {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue, taint(corev1.TaintNodeOutOfService))}, Verdict{Treatment: Account}},
		"taint of a person":          {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue, taint("maintenance"))}, Verdict{Treatment: Defer}},
		"taint, broken pod":          {TaintEviction, Facts{Node: node(corev1.ConditionTrue, taint("maintenance"))}, Verdict{Treatment: Defer, Free: true}},
		"taint taken off again":      {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue)}, Verdict{Treatment: Defer, Refuse: "node n1 has no NoExecute taint any more that the pod does not tolerate"}},
		"taint that only keeps pods from coming": {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoSchedule})},
			Verdict{Treatment: Defer, Refuse: "node n1 has no NoExecute taint any more that the pod does not tolerate"}},
		"taint tolerated for a time": {TaintEviction, Facts{Ready: true, Node: node(corev1.ConditionTrue, taint("x")), Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, TolerationSeconds: &minute}}},
			Verdict{Treatment: Defer}},
		"pod gc": {PodGC, Facts{}, Verdict{Treatment: Skip}},
		"job":    {Job, Facts{Ready: true}, Verdict{Treatment: Account}},
	} {
		if got := Judge(c.path, c.facts); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestWantedDaemons(t *testing.T) {
	set := &appsv1.DaemonSet{}
	set.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	node := &corev1.Node{}
	node.Labels = map[string]string{"disk": "ssd"}
	if !Wants(set, node, nil) {
		t.Error("the node is selected")
	}
	if Wants(set, nil, nil) {
		t.Error("the node is gone")
	}
	node.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoExecute}}
	if Wants(set, node, nil) || !Wants(set, node, []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}) {
		t.Error("the taint counts unless it is tolerated")
	}
	node.Spec.Taints, node.Labels = nil, nil
	if Wants(set, node, nil) {
		t.Error("the node is not selected")
	}
}
