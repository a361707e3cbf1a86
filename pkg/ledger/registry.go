package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// RegistryName is the ConfigMap that lists the own kvstore's instances: Reg of
// the protocol. A claim counts as written when every instance in it has it.
const RegistryName = "meshpdb-kvstore-instances"

const registryKey = "instances"

// Registry is the durable list of kvstore instances that somebody may read.
type Registry struct {
	client    client.Client
	namespace string
}

// NewRegistry returns the registry in the controller's namespace, behind a
// client that does not cache reads.
func NewRegistry(c client.Client, namespace string) *Registry {
	return &Registry{client: c, namespace: namespace}
}

// Instances reads the registry by quorum, sorted.
func (r *Registry) Instances(ctx context.Context) ([]string, error) {
	object, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	return strings.Fields(object.Data[registryKey]), nil
}

// Add registers an instance (R1 b).
func (r *Registry) Add(ctx context.Context, instance string) error {
	return r.change(ctx, func(all []string) []string {
		if slices.Contains(all, instance) {
			return all
		}
		return append(all, instance)
	})
}

// Remove de-registers an instance that nobody can read any more.
func (r *Registry) Remove(ctx context.Context, instance string) error {
	return r.change(ctx, func(all []string) []string {
		return slices.DeleteFunc(all, func(i string) bool { return i == instance })
	})
}

func (r *Registry) read(ctx context.Context) (*corev1.ConfigMap, error) {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: RegistryName}}
	err := r.client.Get(ctx, client.ObjectKeyFromObject(object), object)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read registry of kvstore instances: %w", err)
	}
	return object, nil
}

func (r *Registry) change(ctx context.Context, edit func([]string) []string) error {
	for {
		object, err := r.read(ctx)
		if err != nil {
			return err
		}
		before := object.Data[registryKey]
		all := edit(strings.Fields(before))
		slices.Sort(all)
		after := strings.Join(all, "\n")
		if before == after {
			return nil
		}
		object.Data = map[string]string{registryKey: after}
		if object.ResourceVersion == "" {
			err = r.client.Create(ctx, object)
		} else {
			err = r.client.Update(ctx, object)
		}
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("write registry of kvstore instances: %w", err)
		}
		return nil
	}
}
