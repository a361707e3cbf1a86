package decide

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/pkg/batch"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// gather is how long a request waits for others to share a round with while
// one is under way: little against a round trip, enough for requests that one
// durable write has let go on at the same moment.
const gather = time.Millisecond

// store is what one read of a round is about.
type store struct{ cluster, namespace string }

// shared holds what requests that arrive together do once for all of them. Each
// call begins after it was asked for, so that sharing changes no rule (R2, R3).
type shared struct {
	registry *batch.Group[struct{}, struct{}, []string]
	writes   *batch.Group[string, claim.Claim, struct{}]
	reads    *batch.Group[store, Query, claim.Snapshot]
	// scopes by namespace/name of the budget; the question is the namespace.
	scopes *batch.Group[string, string, []string]
}

func newShared(c Config) shared {
	s := shared{
		registry: batch.New(gather, func(ctx context.Context, _ struct{}, _ []struct{}) ([]string, error) {
			return c.Registry.Instances(ctx)
		}),
		writes: batch.New(gather, func(ctx context.Context, instance string, claims []claim.Claim) (struct{}, error) {
			return struct{}{}, c.Own.WriteClaims(ctx, instance, claims)
		}),
		reads: batch.New(gather, func(ctx context.Context, s store, queries []Query) (claim.Snapshot, error) {
			if s.cluster == c.Cluster {
				c.Round(len(queries))
			}
			ctx, cancel := context.WithTimeout(ctx, c.ReadTimeout)
			defer cancel()
			return c.Clusters.Snapshot(ctx, s.cluster, union(queries)), nil
		}),
		scopes: batch.New(gather, func(ctx context.Context, name string, namespaces []string) ([]string, error) {
			return c.Scopes.Scope(ctx, namespaces[0], strings.TrimPrefix(name, namespaces[0]+"/"))
		}),
	}
	panicked := func(value any, stack []byte) {
		c.Log.Error(fmt.Errorf("panic: %v", value), "perform shared call", "stack", string(stack))
	}
	s.registry.Panicked, s.writes.Panicked, s.reads.Panicked, s.scopes.Panicked = panicked, panicked, panicked, panicked
	return s
}

// union asks for the budgets of all queries, which are of one namespace. Of two
// Services for one budget the later request's is asked: its budget is the newer one, and
// the other's snapshot then does not speak of its own.
func union(queries []Query) Query {
	all := Query{Namespace: queries[0].Namespace, Services: map[string]string{}}
	for _, q := range queries {
		for name, service := range q.Services {
			all.Services[name] = service
		}
	}
	return all
}

// registered reads the registry by quorum, and remembers it as a hint.
func (d *Decider) registered(ctx context.Context) ([]string, error) {
	instances, err := d.shared.registry.Call(ctx, struct{}{}, struct{}{})
	if err == nil {
		d.known.Store(&instances)
	}
	return instances, err
}

// write puts a claim into instances and returns those that acknowledged it.
func (d *Decider) write(ctx context.Context, instances []string, c claim.Claim) []string {
	return d.each(ctx, instances, func(ctx context.Context, instance string) error {
		_, err := d.shared.writes.Call(ctx, instance, c)
		return err
	})
}

// announce reads the registry and writes the claim, at the same time, to the
// instances that it named last time. The claim is durable, so this is in
// order (R2); only instances that the registry still names are waited for.
func (d *Decider) announce(ctx context.Context, a *claim.Attempt) {
	early, cancel := context.WithTimeout(ctx, d.config.ReadTimeout)
	defer cancel()
	writes := map[string]chan error{}
	if known := d.known.Load(); known != nil && !a.Announced() {
		c := a.Claim()
		for _, instance := range *known {
			done := make(chan error, 1)
			writes[instance] = done
			go func() {
				_, err := d.shared.writes.Call(early, instance, c)
				done <- err
			}()
		}
	}
	instances, err := d.registered(ctx)
	var acknowledged []string
	for _, instance := range instances {
		if done := writes[instance]; done != nil && <-done == nil {
			acknowledged = append(acknowledged, instance)
		}
	}
	a.Written(acknowledged)
	a.Registered(instances, err)
	untried := func(instance string) bool { return writes[instance] == nil }
	if a.Next() == claim.WriteInstances && !slices.ContainsFunc(a.Unwritten(), untried) {
		// What has just failed need not be tried again before the registry is read again.
		a.Written(nil)
	}
}
