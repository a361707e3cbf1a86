package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// apiServer is the durable part of a cluster's Kubernetes API that the ledger
// and the registry use: objects changed by compare-and-swap.
type apiServer struct {
	cluster *cluster
	version uint64
	objects map[string]client.Object
}

var errConflict = apierrors.NewConflict(schema.GroupResource{Resource: "objects"}, "object", errors.New("the object has been modified"))

// write makes an object durable if it is based on the one that stands.
func (a *apiServer) write(key string, object client.Object, create bool) (client.Object, error) {
	old := a.objects[key]
	switch {
	case create && old != nil:
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "objects"}, key)
	case !create && old == nil:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "objects"}, key)
	case !create && old.GetResourceVersion() != object.GetResourceVersion():
		return nil, errConflict
	}
	a.version++
	object.SetResourceVersion(strconv.FormatUint(a.version, 10))
	a.objects[key] = object
	if fresh, ok := object.(*v1alpha1.DisruptionLedger); ok {
		before, _ := old.(*v1alpha1.DisruptionLedger)
		a.cluster.ledgerChanged(before, fresh)
	}
	return object, nil
}

// apiClient is what a process reads and writes its API server with, without a
// cache. What nobody of ours calls is not there, and panics.
type apiClient struct {
	client.Client
	process *process
}

func keyOf(object any) string {
	switch o := object.(type) {
	case *v1alpha1.DisruptionLedger:
		return "ledger/" + o.Name
	case *corev1.ConfigMap:
		return "configmap/" + o.Name
	}
	panic(fmt.Sprintf("simulation: %T is not simulated", object))
}

func (c apiClient) call(ctx context.Context, what string, effect func(*apiServer) (any, error)) (client.Object, error) {
	return do[client.Object](ctx, c.process.apiCall(what, func() (any, error) { return effect(c.process.cluster.api) }))
}

// apiCall is a call of the process to its API server.
func (p *process) apiCall(what string, effect func() (any, error)) *call {
	return &call{process: p, link: toAPI, key: p.name + " api " + what, lost: errLostAPI, effect: effect}
}

// Get implements client.Client.
func (c apiClient) Get(ctx context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.SetName(name.Name)
	key := keyOf(into)
	found, err := c.call(ctx, "get "+key, func(a *apiServer) (any, error) {
		object := a.objects[key]
		if object == nil {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "objects"}, key)
		}
		return object.DeepCopyObject(), nil
	})
	if err != nil {
		return err
	}
	return fill(into, found)
}

func fill(into, from client.Object) error {
	switch to := into.(type) {
	case *v1alpha1.DisruptionLedger:
		*to = *from.(*v1alpha1.DisruptionLedger)
	case *corev1.ConfigMap:
		*to = *from.(*corev1.ConfigMap)
	}
	return nil
}

// List implements client.Client, for ledgers.
func (c apiClient) List(ctx context.Context, into client.ObjectList, _ ...client.ListOption) error {
	list, err := do[[]v1alpha1.DisruptionLedger](ctx, c.process.apiCall("list ledgers", func() (any, error) {
		var all []v1alpha1.DisruptionLedger
		if l, ok := c.process.cluster.api.objects["ledger/"+namespace].(*v1alpha1.DisruptionLedger); ok {
			all = append(all, *l.DeepCopy())
		}
		return all, nil
	}))
	if err != nil {
		return err
	}
	into.(*v1alpha1.DisruptionLedgerList).Items = list
	return nil
}

// Create implements client.Client.
func (c apiClient) Create(ctx context.Context, object client.Object, _ ...client.CreateOption) error {
	return c.write(ctx, "create", object, true)
}

// Update implements client.Client.
func (c apiClient) Update(ctx context.Context, object client.Object, _ ...client.UpdateOption) error {
	return c.write(ctx, "update", object, false)
}

func (c apiClient) write(ctx context.Context, verb string, object client.Object, create bool) error {
	key := keyOf(object)
	sent := object.DeepCopyObject().(client.Object)
	written, err := c.call(ctx, fmt.Sprintf("%s %s at %s: %s", verb, key, object.GetResourceVersion(), describe(object)), func(a *apiServer) (any, error) {
		object, err := a.write(key, sent, create)
		if err != nil {
			return nil, err
		}
		return object.DeepCopyObject(), nil
	})
	if err != nil {
		return err
	}
	return fill(object, written)
}

// describe tells objects apart by what matters.
func describe(object client.Object) string {
	switch o := object.(type) {
	case *v1alpha1.DisruptionLedger:
		h := fnv.New64a()
		for _, c := range o.Claims {
			fmt.Fprintf(h, "%s %s %d ", c.ID, c.State, c.Seq)
		}
		return fmt.Sprintf("%d claims %x", len(o.Claims), h.Sum64())
	case *corev1.ConfigMap:
		return fmt.Sprint(o.Data)
	}
	return ""
}
