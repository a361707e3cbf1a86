package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/controller"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/ledger"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/redrive"
	"github.com/meshpdb/meshpdb/pkg/tracing"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

func run(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("load kubeconfig: %w", err)
	}
	// The API server's priority and fairness does the limiting.
	config.QPS, config.Burst = 500, 1000
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	direct, err := client.New(config, client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	kicks := controller.NewKicks()
	discovered := o.discovery()
	m, err := mesh.New(mesh.Config{
		Cluster: o.clusterName, Peers: o.clustermesh, OwnKVStore: o.kvstore, Discovered: discovered,
		Log: ctrl.Log.WithName("mesh"), Changed: kicks.Kick,
	})
	if err != nil {
		return err
	}
	running, err := runningPods(config)
	if err != nil {
		return err
	}
	pods := &workload.Workload{Cached: mgr.GetClient(), Live: direct, Running: running, Coverage: workload.NewCoverage()}
	if err := pods.Coverage.Follow(ctx, mgr.GetCache()); err != nil {
		return err
	}
	ledgers := ledger.New(direct, o.clusterName)
	registry := ledger.NewRegistry(direct, o.namespace)
	synced := &atomic.Bool{}
	ready := func() error { return readiness(synced, m) }
	probe := &probe{ready: ready, synced: synced, started: time.Now()}
	tracer, err := setUpTracing(ctx, mgr, o)
	if err != nil {
		return err
	}
	display, err := newDisplay(o)
	if err != nil {
		return err
	}
	beside := told{tracer: tracer, sink: display}
	if err := setUpAdmission(mgr, o, m, pods, ledgers, registry, ready, beside); err != nil {
		return err
	}
	if err := setUpMetrics(mgr, o, m, ledgers, ready); err != nil {
		return err
	}
	if err := setUpIntents(mgr, o, pods, running, beside); err != nil {
		return err
	}
	if err := setUpControllers(mgr, o, m, pods, ledgers, registry, controller.Sources{Kicks: kicks, Pods: running}); err != nil {
		return err
	}
	if err := setUpRoster(mgr, o, m, direct, ready); err != nil {
		return err
	}
	if discovered != nil {
		if err := controller.SetupInstances(mgr, o.namespace, o.service, o.servicePort, discovered); err != nil {
			return err
		}
	}
	err = errors.Join(
		mgr.AddHealthzCheck("ping", func(*http.Request) error { return nil }),
		mgr.AddReadyzCheck("decide", func(*http.Request) error { return probe.check() }),
		mgr.Add(everywhere{m.Run}),
		mgr.Add(everywhere{kicks.Run}),
		mgr.Add(everywhere{tuneGC}),
		mgr.Add(everywhere{running.Run}),
		mgr.Add(everywhere{func(ctx context.Context) error { return warm(ctx, mgr, running, pods.Coverage, synced) }}),
	)
	if err != nil {
		return fmt.Errorf("set up manager: %w", err)
	}
	return showing(ctx, display, mgr.Start)
}

// runningPods watches all pods, in protobuf.
func runningPods(config *rest.Config) (*workload.Pods, error) {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return workload.NewPods(clients), nil
}

func newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	webhooks, err := o.webhookOptions()
	if err != nil {
		return nil, err
	}
	// A leader that was killed is replaced within lease; one that lives renews well before.
	lease, renew, retry := 8*time.Second, 6*time.Second, 2*time.Second
	informers := workload.CacheOptions()
	// The controller's namespace is the only place whose slices matter.
	informers.ByObject[&discoveryv1.EndpointSlice{}] = cache.ByObject{Namespaces: map[string]cache.Config{o.namespace: {}}}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         informers,
		Metrics:                       o.metricsOptions(),
		HealthProbeBindAddress:        o.probes,
		PprofBindAddress:              o.pprof,
		LeaderElection:                true,
		LeaderElectionID:              "meshpdb-controller",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		WebhookServer: webhook.NewServer(webhooks),
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	return mgr, nil
}

func (o *options) discovery() *mesh.Discovery {
	if o.service == "" {
		return nil
	}
	return &mesh.Discovery{ServerName: o.service + "." + o.namespace + ".svc"}
}

// told is who is told of answers beside the reporters.
type told struct {
	tracer *tracing.Tracer
	sink   admission.Sink
}

func setUpAdmission(mgr ctrl.Manager, o options, m *mesh.Mesh, pods *workload.Workload, ledgers *ledger.Ledgers, registry *ledger.Registry, ready func() error, told told) error {
	log := ctrl.Log.WithName("admission")
	reporter, err := admission.NewReporter(metrics.Registry, mgr.GetEventRecorder("meshpdb-controller"), log)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	reporter.Node = func(name string) *corev1.Node { return cachedNode(mgr.GetClient(), name) }
	ledgers.Wrote = reporter.Write
	ledgers.Informed = func(namespace string) *v1alpha1.DisruptionLedger {
		var object v1alpha1.DisruptionLedger
		if mgr.GetClient().Get(context.Background(), client.ObjectKey{Name: namespace}, &object, client.UnsafeDisableDeepCopy) != nil {
			return nil
		}
		return &object
	}
	config := decide.Config{
		Cluster: o.clusterName, Replica: controllerName(), Ledger: ledgers, Registry: registry, Own: m.Own(), Clusters: clusters{m}, Scopes: pods,
		NewID: uuid.NewString, Timeout: o.decisionTimeout, Observe: reporter.Phase, Round: reporter.Round, Log: log,
	}
	if told.tracer != nil {
		config.Trace = told.tracer.Phase
	}
	decider, err := decide.New(config)
	if err != nil {
		return err
	}
	server := mgr.GetWebhookServer()
	desk := admission.Config{
		Cluster: o.clusterName, Decider: guarded(decider), Pods: pods, Ready: ready, Answered: admission.All(reporter.Answered, told.sink.Answered), Log: log,
		Facts: facts{pods, admission.Reviewer{Client: mgr.GetClient()}}, EnforcePreemption: o.preemption == preemptionEnforce,
	}
	server.Register("/validate", webhookOf(told.tracer, "validate", &admission.Handler{Config: desk}))
	server.Register("/mutate", webhookOf(told.tracer, "mutate", &admission.Precondition{Config: desk}))
	// Clean-ups of the last decisions end before the process does.
	return mgr.Add(everywhere{func(ctx context.Context) error {
		<-ctx.Done()
		decider.Close()
		return nil
	}})
}

// cachedNode returns a node as the informer shows it; nil if it shows none, or is not in step.
func cachedNode(cached client.Reader, name string) *corev1.Node {
	// The informer is in step before the first decision, and then answers from memory.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	var node corev1.Node
	if cached.Get(ctx, client.ObjectKey{Name: name}, &node) != nil {
		return nil
	}
	return &node
}

// setUpMetrics registers what is read when it is scraped.
func setUpMetrics(mgr ctrl.Manager, o options, m *mesh.Mesh, ledgers *ledger.Ledgers, ready func() error) error {
	leads := func() bool {
		select {
		case <-mgr.Elected():
			return true
		default:
			return false
		}
	}
	claims := func(ctx context.Context) ([]claim.Claim, error) { return ledgers.From(ctx, mgr.GetClient()) }
	all := append(ownMetrics(o, ready), mesh.NewCollector(m), controller.NewCollector(mgr.GetClient(), claims, leads, ctrl.Log.WithName("metrics")))
	return registerAll(metrics.Registry, all...)
}

func setUpControllers(mgr ctrl.Manager, o options, m *mesh.Mesh, pods *workload.Workload, ledgers *ledger.Ledgers, registry *ledger.Registry, sources controller.Sources) error {
	recorder := mgr.GetEventRecorder("meshpdb-controller")
	budgets := &controller.Budgets{
		Client: mgr.GetClient(), Workload: pods, Views: m, Recorder: recorder,
		Cluster: o.clusterName, Protected: o.protectedNamespaces(), Log: ctrl.Log.WithName("budget"),
	}
	waits, err := setUpRedrive(mgr, pods, recorder, sources)
	if err != nil {
		return err
	}
	budgets.Waits = waits
	publisher, err := publish.New(publish.Config{
		Cluster: o.clusterName, Controller: controllerName(), Store: m.Own(), Registry: registry, Ledger: ledgers,
		Workload: &controller.Cluster{
			Budgets: budgets, Workload: pods, ConfiguredByFile: o.service == "", Namespace: o.namespace, Service: o.service,
			Ledgers: func(ctx context.Context) ([]claim.Claim, error) { return ledgers.From(ctx, mgr.GetClient()) },
		},
		NewID: func(string) string { return uuid.NewString() }, Log: ctrl.Log.WithName("publish"), Changed: func() { sources.Kicks.Kick("") },
	})
	if err != nil {
		return err
	}
	budgets.Publisher = publisher
	if err := controller.Setup(mgr, budgets, &controller.Services{Client: mgr.GetClient(), Recorder: recorder}, sources); err != nil {
		return err
	}
	if err := controller.SetupLedgers(mgr, &controller.Ledgers{Client: mgr.GetClient(), Live: pods.Live}); err != nil {
		return err
	}
	err = mgr.Add(everywhere{func(ctx context.Context) error {
		publisher.Reap(ctx)
		return nil
	}})
	if err != nil {
		return fmt.Errorf("set up manager: %w", err)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		// Without the pods it would have to publish that it does not know them.
		if sources.Pods.WaitForSync(ctx) != nil {
			return nil
		}
		return publisher.Run(ctx)
	}))
}

func setUpRedrive(mgr ctrl.Manager, pods *workload.Workload, recorder events.EventRecorder, sources controller.Sources) (*redrive.Driver, error) {
	reporter, err := redrive.NewReporter(metrics.Registry, recorder)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	driver := redrive.New(redrive.Config{
		Client: mgr.GetClient(), Workload: pods, Taints: workload.NewTaints(), Reporter: reporter, Log: ctrl.Log.WithName("redrive"),
		Changed: func(namespace, name string) { sources.Kicks.Kick(namespace + "/" + name) },
	})
	return driver, redrive.Setup(mgr, driver, sources.Pods)
}

// everywhere runs on every replica, leader or not.
type everywhere struct {
	run func(context.Context) error
}

func (e everywhere) Start(ctx context.Context) error { return e.run(ctx) }
func (e everywhere) NeedLeaderElection() bool        { return false }

// warm fills what decisions read, before the first request.
func warm(ctx context.Context, mgr ctrl.Manager, running *workload.Pods, coverage *workload.Coverage, synced *atomic.Bool) error {
	for _, read := range []client.Object{&v1alpha1.DisruptionLedger{}, &corev1.Namespace{}, &policyv1.PodDisruptionBudget{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, read); err != nil {
			return fmt.Errorf("start informer: %w", err)
		}
	}
	if running.WaitForSync(ctx) != nil || !mgr.GetCache().WaitForCacheSync(ctx) {
		return nil
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for coverage.Synced() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	synced.Store(true)
	return nil
}

// readiness says why this replica cannot decide; nil if it can.
func readiness(synced *atomic.Bool, m *mesh.Mesh) error {
	if !synced.Load() {
		return errors.New("its informers are not in step yet")
	}
	if err := m.Own().Problem(); err != nil {
		return err
	}
	if own := m.OwnReachable(); own.Err != nil {
		return fmt.Errorf("the own kvstore: %w", own.Err)
	}
	return nil
}

// probeGrace is how long a replica that never could decide yet stays out of
// the Service.
const probeGrace = 15 * time.Second

// probe answers /readyz. A replica becomes ready when it can decide, and then
// stays so: were all replicas to leave the Service because the own kvstore
// restarts, the API server would answer 500 to every eviction, and to every
// deletion by its own controllers, where a replica that cannot decide answers
// 429 with the cause. For the same reason one that cannot decide for long
// after its start joins the Service once its informers are in step.
type probe struct {
	ready   func() error
	synced  *atomic.Bool
	started time.Time
	was     atomic.Bool
}

func (p *probe) check() error {
	err := p.ready()
	if err == nil || p.synced.Load() && time.Since(p.started) > probeGrace {
		p.was.Store(true)
	}
	if p.was.Load() {
		return nil
	}
	return err
}

// facts lets admission look at the own cluster.
type facts struct {
	*workload.Workload
	admission.Reviewer
}

// clusters lets decide read the mesh.
type clusters struct{ mesh *mesh.Mesh }

func query(q decide.Query) mesh.Query {
	to := mesh.Query{Namespace: q.Namespace}
	for name, service := range q.Services {
		to.Budgets = append(to.Budgets, mesh.BudgetRef{Name: name, Service: service})
	}
	return to
}

func (c clusters) Snapshot(ctx context.Context, cluster string, q decide.Query) claim.Snapshot {
	return c.mesh.Snapshot(ctx, cluster, query(q))
}

func (c clusters) Cached(cluster string, q decide.Query) claim.Snapshot {
	return c.mesh.Cached(cluster, query(q))
}

func (c clusters) Changes() <-chan struct{} { return c.mesh.Changes() }
