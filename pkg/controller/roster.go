package controller

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/roster"
)

// Roster tells people of this replica, in a ConfigMap that all replicas share.
type Roster struct {
	// Client does not cache reads.
	Client client.Client
	// Namespace of the ConfigMap.
	Namespace string
	// Tell returns what is to be told now.
	Tell func(now time.Time) roster.Replica
	Log  logr.Logger
}

const (
	// rosterLook is how often Tell is asked whether anything has changed.
	rosterLook = 2 * time.Second
	// rosterTimeout bounds one write.
	rosterTimeout = 5 * time.Second
)

// Run tells at each change and once in roster.Interval, until ctx ends; then it
// takes its entry out.
func (r *Roster) Run(ctx context.Context) error {
	tick := time.NewTicker(rosterLook)
	defer tick.Stop()
	var told roster.Replica
	var problem string
	for {
		now := time.Now()
		if next := r.Tell(now); !next.Same(told) || now.Sub(told.Written) >= roster.Interval {
			err := r.write(ctx, func(data map[string]string) (map[string]string, error) { return roster.Put(data, next) })
			switch {
			case err == nil:
				told, problem = next, ""
			case ctx.Err() == nil && err.Error() != problem:
				problem = err.Error()
				r.Log.Error(err, "tell of this replica")
			}
		}
		select {
		case <-ctx.Done():
			// Who ends in order is not missed.
			return r.leave(context.WithoutCancel(ctx), told.Name)
		case <-tick.C:
		}
	}
}

func (r *Roster) leave(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	err := r.write(ctx, func(data map[string]string) (map[string]string, error) { return roster.Remove(data, name), nil })
	if err != nil {
		r.Log.V(1).Info("the entry of this replica stays until it is forgotten", "cause", err.Error())
	}
	return nil
}

func (r *Roster) write(ctx context.Context, edit func(map[string]string) (map[string]string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, rosterTimeout)
	defer cancel()
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	return retry.OnError(retry.DefaultBackoff, again, func() error {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: roster.ConfigMap}}
		err := r.Client.Get(ctx, client.ObjectKeyFromObject(object), object)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read ConfigMap %s: %w", roster.ConfigMap, err)
		}
		after, err := edit(object.Data)
		if err != nil {
			return err
		}
		if maps.Equal(object.Data, after) {
			return nil
		}
		object.Data = after
		if object.ResourceVersion == "" {
			return r.Client.Create(ctx, object)
		}
		return r.Client.Update(ctx, object)
	})
}
