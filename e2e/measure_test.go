package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// cost is what was asked of the API servers, by the controllers, and of the
// kvstores, by everybody, during some time.
type cost struct {
	took time.Duration
	// requests by cluster.
	requests map[string]requests
	// stores by cluster, by gRPC method, and what they changed, by kind of key.
	stores, changes map[string]map[string]int
}

// over is how many more requests of a method a kvstore had than in another while.
func (c cost) over(idle cost, cluster, method string) int {
	return c.stores[cluster][method] - idle.stores[cluster][method]
}

// measure counts what run causes.
func measure(t *testing.T, run func()) cost {
	t.Helper()
	c := cost{requests: map[string]requests{}, stores: storeRequests(t), changes: map[string]map[string]int{}}
	before := storeRevisions(t)
	start := time.Now()
	run()
	c.took = time.Since(start)
	for cluster, methods := range storeRequests(t) {
		for method, n := range c.stores[cluster] {
			methods[method] -= n
		}
		c.stores[cluster] = methods
	}
	after := storeRevisions(t)
	for _, cluster := range mesh.Clusters {
		c.changes[cluster.Name] = storeChanges(t, cluster, before[cluster.Name], after[cluster.Name])
		c.requests[cluster.Name] = audited(t, cluster, start, start.Add(c.took))
	}
	return c
}

// audited waits until the audit log is past the end: each controller renews a
// lease, or tries to, every second.
func audited(t *testing.T, c *sandbox.Cluster, start, end time.Time) requests {
	t.Helper()
	var all requests
	eventually(t, 30*time.Second, "the audit log is written", func() error {
		events, err := c.Audit(start)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(events, func(e sandbox.AuditEvent) bool { return e.Resource == "leases" && e.Time.After(end.Add(time.Second)) }) {
			return fmt.Errorf("%d requests until now", len(events))
		}
		all = requests(events).between(start, end)
		return nil
	})
	return all
}

func storeRequests(t *testing.T) map[string]map[string]int {
	t.Helper()
	all := map[string]map[string]int{}
	for _, c := range mesh.Clusters {
		one, err := c.Instances[0].Requests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all[c.Name] = one
	}
	return all
}

func storeRevisions(t *testing.T) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for _, c := range mesh.Clusters {
		admin, err := c.Instances[0].AdminClient(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		response, err := admin.Get(t.Context(), "revision")
		admin.Close()
		if err != nil {
			t.Fatal(err)
		}
		all[c.Name] = response.Header.Revision
	}
	return all
}

// storeChanges counts what happened to the keys of a kvstore after one
// revision until another, from its history: "PUT claims" and so on; keys that
// are not ours are Cilium's.
func storeChanges(t *testing.T, c *sandbox.Cluster, after, until int64) map[string]int {
	t.Helper()
	admin, err := c.Instances[0].AdminClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	kinds := map[wire.Kind]string{
		wire.KindIncarnation: "incarnations", wire.KindMarker: "markers", wire.KindBudget: "budgets", wire.KindPod: "pods", wire.KindClaim: "claims",
	}
	changes := map[string]int{}
	if after >= until {
		return changes
	}
	for response := range admin.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(after+1)) {
		if err := response.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range response.Events {
			if e.Kv.ModRevision > until {
				return changes
			}
			kind := "of Cilium"
			if key, err := wire.ParseKey(c.Name, string(e.Kv.Key)); err == nil {
				kind = kinds[key.Kind]
			}
			changes[e.Type.String()+" "+kind]++
		}
		if response.Header.Revision >= until {
			return changes
		}
	}
	t.Fatalf("read history of the kvstore of %s: %v", c.Name, ctx.Err())
	return nil
}

// pass lets time pass, to count what happens in it.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// requests of controllers to their API server.
type requests []sandbox.AuditEvent

func (r requests) where(match func(sandbox.AuditEvent) bool) requests {
	return slices.DeleteFunc(slices.Clone(r), func(e sandbox.AuditEvent) bool { return !match(e) })
}

// between keeps those that arrived from start until before end.
func (r requests) between(start, end time.Time) requests {
	return r.where(func(e sandbox.AuditEvent) bool { return !e.Time.Before(start) && e.Time.Before(end) })
}

func (r requests) resource(resource string) requests {
	return r.where(func(e sandbox.AuditEvent) bool { return e.Resource == resource })
}

func (r requests) namespace(namespace string) requests {
	return r.where(func(e sandbox.AuditEvent) bool { return e.Namespace == namespace })
}

func (r requests) on(resource, name string) requests {
	return r.where(func(e sandbox.AuditEvent) bool { return e.Resource == resource && e.Name == name })
}

func (r requests) verb(verb string) requests {
	return r.where(func(e sandbox.AuditEvent) bool { return e.Verb == verb })
}

func (r requests) writes() requests {
	return r.where(func(e sandbox.AuditEvent) bool { return !slices.Contains([]string{"get", "list", "watch"}, e.Verb) })
}

func (r requests) succeeded() requests {
	return r.where(func(e sandbox.AuditEvent) bool { return e.Code < 300 })
}

// String counts them by kind.
func (r requests) String() string {
	kinds := map[string]int{}
	for _, e := range r {
		kinds[describeKind(e)]++
	}
	return counts(kinds)
}

func describeKind(e sandbox.AuditEvent) string {
	kind := e.Verb + " " + e.Resource
	if e.Subresource != "" {
		kind += "/" + e.Subresource
	}
	if e.Code >= 300 {
		kind += fmt.Sprintf(" (%d)", e.Code)
	}
	return kind
}

func counts(of map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if of[name] != 0 {
			all = append(all, fmt.Sprintf("%d %s", of[name], name))
		}
	}
	return strings.Join(all, ", ")
}
