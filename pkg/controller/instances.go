package controller

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Addresses is told the instances of the own ClusterMesh.
type Addresses interface {
	Set(addresses []string)
}

// SetupInstances follows the EndpointSlices of the clustermesh-apiserver
// Service. Every pod counts, ready or not, terminating or not: each has an
// independent etcd that some peer may be reading (rule R2).
func SetupInstances(mgr ctrl.Manager, namespace, service string, port int, addresses Addresses) error {
	ofService := predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetNamespace() == namespace && o.GetLabels()[discoveryv1.LabelServiceName] == service
	})
	everyReplica := false
	reconciler := reconcile.Func(func(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
		found, err := InstanceAddresses(ctx, mgr.GetClient(), namespace, service, port)
		if err == nil {
			addresses.Set(found)
		}
		return reconcile.Result{}, err
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("instances").
		For(&discoveryv1.EndpointSlice{}).
		WithEventFilter(ofService).
		WithOptions(controller.Options{NeedLeaderElection: &everyReplica}).
		Complete(reconciler)
	if err != nil {
		return fmt.Errorf("set up instance discovery: %w", err)
	}
	return nil
}

// InstanceAddresses lists host:port of every pod behind the Service, sorted.
func InstanceAddresses(ctx context.Context, reader client.Reader, namespace, service string, port int) ([]string, error) {
	var slicesOf discoveryv1.EndpointSliceList
	err := reader.List(ctx, &slicesOf, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service})
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices of %s/%s: %w", namespace, service, err)
	}
	// A dual-stack pod stands in two slices; as two instances it would fence itself.
	slices.SortFunc(slicesOf.Items, func(a, b discoveryv1.EndpointSlice) int {
		return cmp.Or(cmp.Compare(a.AddressType, b.AddressType), cmp.Compare(a.Name, b.Name))
	})
	pods := map[string]bool{}
	var found []string
	for _, s := range slicesOf.Items {
		for _, endpoint := range s.Endpoints {
			if len(endpoint.Addresses) == 0 {
				continue
			}
			pod := endpoint.Addresses[0]
			if endpoint.TargetRef != nil {
				pod = endpoint.TargetRef.Name
			}
			if !pods[pod] {
				pods[pod] = true
				found = append(found, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(port)))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}
