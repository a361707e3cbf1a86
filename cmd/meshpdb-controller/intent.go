package main

import (
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// setUpIntents serves the webhook of what covered pods live by.
func setUpIntents(mgr ctrl.Manager, o options, pods *workload.Workload, running *workload.Pods, told told) error {
	log := ctrl.Log.WithName("intent")
	reporter, err := admission.NewIntentReporter(metrics.Registry, mgr.GetEventRecorder("meshpdb-controller"), log)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	mgr.GetWebhookServer().Register("/validate-intent", webhookOf(told.tracer, "intent", &admission.Intents{
		Dependents: &workload.Dependents{Workload: pods, Running: running, Cluster: o.clusterName, Protected: o.protectedNamespaces()},
		Answered:   admission.All(reporter.Answered, told.sink.Intended), Log: log,
	}))
	return nil
}
