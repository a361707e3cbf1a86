package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/wire"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Views are the cached views of all clusters.
type Views interface {
	Peers() []string
	Cached(cluster string, q mesh.Query) claim.Snapshot
	Held(cluster, namespace, name string) (held, read bool)
	Exports(ctx context.Context, cluster, namespace, service string) (bool, error)
}

// Publisher shows this cluster's parts to the mesh.
type Publisher interface {
	Set(ctx context.Context, part publish.Part) error
	Remove(namespace, name string)
	Problems() map[string]error
	// Started is closed when reconciles may begin.
	Started() <-chan struct{}
}

// Waits knows what waits in this cluster for a budget to allow it: the first few, and how many.
type Waits interface {
	Observe(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, pods []corev1.Pod) ([]v1alpha1.WaitingDisruption, int32, error)
}

// Budgets reconciles MeshPodDisruptionBudgets.
type Budgets struct {
	Client   client.Client
	Workload *workload.Workload
	Views    Views
	// Publisher is asked only by the leader.
	Publisher Publisher
	Waits     Waits
	Recorder  events.EventRecorder
	// Cluster is the own cluster's name.
	Cluster string
	// Protected namespaces are never labelled: meshpdb must not hold up what it needs itself.
	Protected []string
	Log       logr.Logger

	mu sync.Mutex
	// written is when the status of a budget was written last.
	written map[types.NamespacedName]time.Time
	// exports remembers for a while which peers export a Service without holding the budget.
	exports map[string]exportSighting
}

type exportSighting struct {
	exports bool
	at      time.Time
}

const (
	// statusInterval keeps a busy budget from writing its status at every event: half of
	// the second within which it is to be true.
	statusInterval = 500 * time.Millisecond
	// resync bounds how long anything that has no event stays unnoticed, where
	// there is such a thing.
	resync = 20 * time.Second
	// idleResync is resync where there is none: it mends only what is lost by mistake.
	idleResync = 5 * time.Minute
	// exportsMemory is how long a peer's exports are believed.
	exportsMemory = 20 * time.Second
)

// errBehind ends a reconcile that worked on an outdated object.
var errBehind = errors.New("the informer is behind the API server")

// Reconcile brings one budget in line.
func (r *Budgets) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	select {
	case <-r.Publisher.Started():
	case <-ctx.Done():
		return ctrl.Result{}, ctx.Err()
	}
	result, err := r.reconcile(ctx, request)
	if errors.Is(err, errBehind) {
		return ctrl.Result{RequeueAfter: statusInterval}, nil
	}
	return result, err
}

func (r *Budgets) reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var b v1alpha1.MeshPodDisruptionBudget
	err := r.Client.Get(ctx, request.NamespacedName, &b)
	if apierrors.IsNotFound(err) || err == nil && b.DeletionTimestamp != nil {
		r.Publisher.Remove(request.Namespace, request.Name)
		return ctrl.Result{}, r.unlabel(ctx, request.Namespace)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read budget: %w", err)
	}
	if err := r.label(ctx, b.Namespace); err != nil {
		return ctrl.Result{}, err
	}
	scope := r.scope(ctx, &b)
	own := r.share(ctx, &b, scope)
	var temporary error
	if own.problem != nil && !errors.As(own.problem, new(*workload.Problem)) {
		temporary = own.problem
	}
	status := r.status(&b, scope, own.owners)
	if len(own.selector) > 0 {
		// Updating the status decodes the answer into it, and the Service is the informer's.
		status.Selector = maps.Clone(own.selector)
	}
	if !slices.Equal(scope, workload.Scope(&b)) {
		// The scope must be durable before it is published: every replica decides from it.
		if err := r.write(ctx, &b, status); err != nil {
			return ctrl.Result{}, err
		}
	}
	if err := errors.Join(temporary, r.Publisher.Set(ctx, own.Part)); err != nil {
		return ctrl.Result{}, err
	}
	r.conditions(&b, &status, own.Budget.Exported, own.problem)
	r.waiting(ctx, &b, &status, own)
	return r.writeSoon(ctx, &b, status, r.resyncOf(&b, own))
}

// Parts returns this cluster's part in every budget (publish.Cluster).
func (r *Budgets) Parts(ctx context.Context) ([]publish.Part, error) {
	var all v1alpha1.MeshPodDisruptionBudgetList
	if err := r.Workload.Live.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("list budgets: %w", err)
	}
	var parts []publish.Part
	for i := range all.Items {
		b := &all.Items[i]
		scope := workload.Scope(b)
		if len(scope) == 0 || b.DeletionTimestamp != nil {
			// Never reconciled: it is published once it is.
			continue
		}
		// Whatever is wrong with this one is part of it, and no other budget's concern.
		parts = append(parts, r.share(ctx, b, scope).Part)
	}
	return parts, nil
}

// share is this cluster's part in a budget and what else is known from computing it.
type share struct {
	publish.Part
	owners []v1alpha1.OwnerStatus
	// covered are the pods; none if they are not held up here.
	covered []corev1.Pod
	// selector of the Service as it stands, empty if it selects nothing.
	selector map[string]string
	problem  error
}

// share computes what this cluster publishes of a budget. A problem is part of
// it: the other clusters are told why this one cannot answer.
func (r *Budgets) share(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, scope []string) share {
	service, missing := r.Workload.Service(ctx, b)
	own := share{owners: b.Status.Owners, Part: publish.Part{Namespace: b.Namespace, Name: b.Name, Generation: b.Generation, Budget: wire.Budget{
		UID: string(b.UID), Service: b.Spec.Service, View: scope,
	}}}
	if missing == nil {
		own.selector = service.Spec.Selector
	}
	if b.Spec.MinAvailable != nil {
		own.Budget.MinAvailable = b.Spec.MinAvailable.String()
	}
	if b.Spec.MaxUnavailable != nil {
		own.Budget.MaxUnavailable = b.Spec.MaxUnavailable.String()
	}
	if guarded := r.guards(b, scope); guarded != nil {
		// Its pods may go at any time, so nobody may count on them.
		own.Budget.Undecided, own.problem = guarded.Message, guarded
		return own
	}
	own.Budget.Expected = workload.Expected(own.owners)
	selection, err := workload.StandIn(b, service, missing)
	var problem *workload.Problem
	if errors.As(err, &problem) && problem.Reason == v1alpha1.ReasonServiceNotFound {
		// Nothing was ever selected here.
		own.problem = problem
		return own
	}
	owners := own.owners
	if err == nil {
		own.Budget.Exported = workload.IsExported(selection)
		own.covered, owners, err = r.pods(ctx, selection, b.Status.Owners)
		own.Pods = records(own.covered)
	}
	if err != nil {
		own.Budget.Undecided, own.problem = err.Error(), err
		return own
	}
	own.owners, own.problem = owners, missing
	own.Budget.Expected = workload.Expected(owners)
	return own
}

// guards tells why disruptions of the budget's pods in this cluster are not
// held up; nil if they are.
func (r *Budgets) guards(b *v1alpha1.MeshPodDisruptionBudget, scope []string) *workload.Problem {
	switch {
	case slices.Contains(r.Protected, b.Namespace):
		return &workload.Problem{Reason: v1alpha1.ReasonProtectedNamespace, Message: fmt.Sprintf("namespace %s holds what meshpdb itself needs, so it never holds up disruptions there", b.Namespace)}
	case !slices.Contains(scope, r.Cluster):
		return &workload.Problem{Reason: v1alpha1.ReasonClusterNotInScope, Message: fmt.Sprintf("spec.clusters does not name this cluster, %s", r.Cluster)}
	}
	return nil
}

func (r *Budgets) pods(ctx context.Context, service *corev1.Service, known []v1alpha1.OwnerStatus) ([]corev1.Pod, []v1alpha1.OwnerStatus, error) {
	pods, err := r.Workload.Pods(ctx, service)
	if err != nil {
		return nil, nil, err
	}
	owners, err := r.Workload.Owners(ctx, service.Namespace, pods, known)
	return pods, owners, err
}

func records(pods []corev1.Pod) []wire.Pod {
	all := make([]wire.Pod, 0, len(pods))
	for i := range pods {
		all = append(all, workload.Record(&pods[i]))
	}
	return all
}

// scope returns the clusters that take part. What the status remembers of a
// cluster's own record stays; a peer that was never read counts until it is.
func (r *Budgets) scope(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget) []string {
	if len(b.Spec.Clusters) > 0 {
		return workload.Scope(b)
	}
	scope := map[string]bool{r.Cluster: true}
	for _, c := range b.Status.Clusters {
		if c.Bound != "" {
			scope[c.Name] = true
		}
	}
	for _, peer := range r.Views.Peers() {
		held, read := r.Views.Held(peer, b.Namespace, b.Name)
		if held || !read || r.exporting(ctx, peer, b) {
			scope[peer] = true
		}
	}
	return slices.Sorted(maps.Keys(scope))
}

// exporting reports whether a peer that does not hold the budget exports the
// Service. While it cannot be asked, the last answer stands.
func (r *Budgets) exporting(ctx context.Context, peer string, b *v1alpha1.MeshPodDisruptionBudget) bool {
	key := peer + "/" + b.Namespace + "/" + b.Spec.Service
	r.mu.Lock()
	last, known := r.exports[key]
	r.mu.Unlock()
	if known && time.Since(last.at) < exportsMemory {
		return last.exports
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	exports, err := r.Views.Exports(ctx, peer, b.Namespace, b.Spec.Service)
	if err != nil {
		// The last answer stands; without one the peer may well take part.
		exports = last.exports || !known
	}
	if err != nil && !known {
		return exports
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exports == nil {
		r.exports = map[string]exportSighting{}
	}
	r.exports[key] = exportSighting{exports: exports, at: time.Now()}
	return exports
}

// status computes the numbers from the cached views.
func (r *Budgets) status(b *v1alpha1.MeshPodDisruptionBudget, scope []string, owners []v1alpha1.OwnerStatus) v1alpha1.MeshPodDisruptionBudgetStatus {
	q := r.question(b, scope)
	d := budget.Decide(q)
	status := v1alpha1.MeshPodDisruptionBudgetStatus{
		ObservedGeneration:  b.Generation,
		DisruptionsAllowed:  int32(d.Allowed()),
		CurrentHealthy:      int32(d.Available),
		DesiredHealthy:      int32(d.Desired),
		ExpectedPods:        int32(d.Expected),
		DisruptionsInFlight: int32(d.InFlight),
		Owners:              owners,
		Selector:            b.Status.Selector,
		WaitingDisruptions:  b.Status.WaitingDisruptions,
		Waiting:             b.Status.Waiting,
		Conditions:          slices.Clone(b.Status.Conditions),
	}
	reachable := 0
	for _, c := range q.Clusters {
		row := clusterStatus(c, b.Status.Clusters)
		if row.Reachable {
			reachable++
		}
		status.Clusters = append(status.Clusters, row)
	}
	status.ClustersReachable = fmt.Sprintf("%d/%d", reachable, len(scope))
	setDisruptionAllowed(&status, b.Generation, d)
	return status
}

// writeSoon writes the status unless that was done a moment ago.
func (r *Budgets) writeSoon(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, status v1alpha1.MeshPodDisruptionBudgetStatus, again time.Duration) (ctrl.Result, error) {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	key := client.ObjectKeyFromObject(b)
	r.mu.Lock()
	since := time.Since(r.written[key])
	r.mu.Unlock()
	if since < statusInterval {
		return ctrl.Result{RequeueAfter: statusInterval - since}, nil
	}
	return ctrl.Result{RequeueAfter: again}, r.write(ctx, b, status)
}

// resyncOf is when to look again if nothing is heard. No event tells of the
// scale of owners of unknown kinds, nor of what a peer exports that does not
// hold the budget, nor perhaps that a problem has gone.
func (r *Budgets) resyncOf(b *v1alpha1.MeshPodDisruptionBudget, own share) time.Duration {
	if own.problem != nil || len(r.Publisher.Problems()) > 0 || slices.ContainsFunc(own.owners, func(o v1alpha1.OwnerStatus) bool { return !workload.Watched(o.APIVersion, o.Kind) }) {
		return resync
	}
	if len(b.Spec.Clusters) == 0 && slices.ContainsFunc(r.Views.Peers(), func(peer string) bool {
		held, _ := r.Views.Held(peer, b.Namespace, b.Name)
		return !held
	}) {
		return resync
	}
	return idleResync
}

func (r *Budgets) write(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget, status v1alpha1.MeshPodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	r.announce(b, &status)
	status.DeepCopyInto(&b.Status)
	if err := r.Client.Status().Update(ctx, b); err != nil {
		if apierrors.IsConflict(err) {
			// The informer is behind; try again once it has caught up.
			return errBehind
		}
		return fmt.Errorf("write status of budget: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written == nil {
		r.written = map[types.NamespacedName]time.Time{}
	}
	r.written[client.ObjectKeyFromObject(b)] = time.Now()
	return nil
}
