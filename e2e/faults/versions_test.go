package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// published are records of c3 by their keys, as a version of meshpdb writes them.
type published map[string]any

// record is one of them, with fields that wire need not know.
type record map[string]any

const versions = "versions"

func key(kind wire.Kind, id string) string {
	return wire.Key{Kind: kind, Cluster: "c3", Namespace: versions, Budget: "db", ID: id}.String()
}

// thisVersion is a cluster with three available pods.
func thisVersion() published {
	p := published{
		key(wire.KindIncarnation, ""): record{"id": "other-version"},
		key(wire.KindMarker, ""):      record{"incarnation": "other-version"},
		key(wire.KindBudget, ""): record{
			"uid": "b", "service": "db", "maxUnavailable": "1", "expected": 3, "view": []string{"c1", "c2", "c3"},
		},
	}
	for i := range 3 {
		id := fmt.Sprintf("p-%d", i)
		p[key(wire.KindPod, id)] = record{"uid": id, "name": id, "ips": []string{"10.9.9.9"}}
	}
	return p
}

// with returns the records with one more or another one.
func (p published) with(key string, r any) published {
	p = maps.Clone(p)
	p[key] = r
	return p
}

// each returns the records with all values changed.
func (p published) each(change func(record)) published {
	changed := published{}
	for key, value := range p {
		r := maps.Clone(value.(record))
		change(r)
		changed[key] = r
	}
	return changed
}

// TestOtherVersions: c3 runs another version of meshpdb, which writes records
// as an older or a newer one would. What is understood is decided, what is not
// is taken for the cautious thing or refused by name, and nothing stops the
// budget for good.
func TestOtherVersions(t *testing.T) {
	settle(t)
	w := own(t, versions, maxUnavailable(1))
	watch(t, w, 1)
	killControllers(3)
	t.Cleanup(func() { must(t, startControllers(context.WithoutCancel(t.Context()), 3)) })
	admin, err := part(3).Instances[0].AdminClient(t.Context())
	must(t, err)
	defer admin.Close()
	base := thisVersion()
	pod := key(wire.KindPod, "p-0")
	claim := key(wire.KindClaim, "x")
	for _, tt := range []struct {
		name string
		c3   published
		// want are words of the refusal; none: it is allowed.
		want []string
	}{
		{"this version", base, nil},
		{"newer: unknown fields in all records", base.each(func(r record) { r["later"] = record{"x": 1} }), nil},
		{"newer: unknown kinds of records", base.with(wire.ClusterPrefix("c3")+"leases/versions/x", record{"x": 1}), nil},
		{"newer: a pod unavailable for an unknown reason", base.with(pod, record{"uid": "p-0", "unavailable": "Hibernating"}), []string{"c3 2/3"}},
		{"newer: a claim in an unknown state", base.with(claim, record{"id": "x", "uid": "p-0", "pod": "p-0", "state": "Escrowed", "ticket": 1}), []string{"c3 2/3", "in flight"}},
		{"newer: waiters of another shape", base.with(key(wire.KindWaiters, "r"), record{"pods": "none"}), nil},
		{"newer: a bound of an unknown kind", base.with(key(wire.KindBudget, ""), record{"service": "db", "quorum": "2", "expected": 3, "view": []string{"c1", "c2", "c3"}}),
			[]string{"c3", "budgets/versions/db", "exactly one of minAvailable and maxUnavailable must be set"}},
		{"older: no optional fields", base.each(func(r record) { delete(r, "ips"); delete(r, "name"); delete(r, "exported") }), nil},
		{"older: a claim without ticket and pod", base.with(claim, record{"id": "x", "uid": "p-0", "state": "Pending"}), []string{"c3 3/3, 1 being decided"}},
		{"older: who takes part is not told", base.with(key(wire.KindBudget, ""), record{"service": "db", "maxUnavailable": "1", "expected": 3}),
			[]string{"c3", "disagree on who takes part"}},
		{"no marker", func() published { p := maps.Clone(base); delete(p, key(wire.KindMarker, "")); return p }(), []string{"c3", "has not finished publishing"}},
		{"a pod that cannot be read", base.with(pod, "no object"), []string{"c3", "pods/versions/db/p-0"}},
		{"a pod that is too large", base.with(pod, record{"uid": "p-0", "name": strings.Repeat("x", wire.MaxSize)}), []string{"c3", "pods/versions/db/p-0", "exceed"}},
		{"this version again", base, nil},
	} {
		publish(t, admin, tt.c3)
		deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for {
			err := preview(deadline, w, cluster(1))
			if fits(err, tt.want) {
				tell(t, tt.name, err)
				break
			}
			if !pause(deadline, askPause) {
				t.Errorf("%s: got %v, want a refusal with %q (none: allowed)", tt.name, err, tt.want)
				break
			}
		}
		cancel()
	}
	// Not only a preview: beside the other version an eviction is allowed.
	granted(t, w, cluster(1))
	publish(t, admin, nil)
}

// tell notes what was decided beside another version.
func tell(t *testing.T, what string, err error) {
	t.Helper()
	sentence := "allowed"
	if err != nil {
		sentence = scenario.Sentence(err)
	}
	t.Logf("%s: %s", what, sentence)
}

// publish makes c3's kvstore hold exactly these records of ours.
func publish(t *testing.T, admin *clientv3.Client, p published) {
	t.Helper()
	// In a transaction of its own: none may write a key twice.
	_, err := admin.Delete(t.Context(), wire.ClusterPrefix("c3"), clientv3.WithPrefix())
	must(t, err)
	var puts []clientv3.Op
	for key, value := range p {
		data, err := json.Marshal(value)
		must(t, err)
		puts = append(puts, clientv3.OpPut(key, string(data)))
	}
	_, err = admin.Txn(t.Context()).Then(puts...).Commit()
	must(t, err)
}

// preview asks for an eviction that is decided and not carried out.
func preview(ctx context.Context, w *scenario.Workload, c *scenario.Cluster) error {
	pods, err := w.Available(ctx, c)
	if err != nil || len(pods) == 0 {
		return fmt.Errorf("no pod to ask for: %w", err)
	}
	return c.Client.PolicyV1().Evictions(w.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: w.Namespace, Name: pods[0].Name},
		DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
	})
}

// fits tells whether an answer is the refusal with these words; the permission if there are none.
func fits(err error, words []string) bool {
	if len(words) == 0 {
		return err == nil
	}
	if !apierrors.IsTooManyRequests(err) {
		return false
	}
	for _, word := range words {
		if !strings.Contains(scenario.Sentence(err), word) {
			return false
		}
	}
	return true
}
