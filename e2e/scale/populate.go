package scale

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// nursery is the namespace of the objects that are copied. It has no budget
// that covers a pod for long: it is emptied again.
const nursery = "scale-template"

// population writes the objects of one cluster.
type population struct {
	Options
	client client.Client
	store  *store
}

func populate(ctx context.Context, c *sandbox.Cluster, o Options) error {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	api, err := client.New(c.Config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	s, err := openStore(c.Etcd)
	if err != nil {
		return err
	}
	defer s.close()
	p := &population{Options: o, client: api, store: s}
	started := time.Now()
	if err := errors.Join(p.namespaces(ctx), p.templates(ctx)); err != nil {
		return err
	}
	for _, copies := range []func(context.Context) error{p.services, p.owners, p.pods, p.budgets} {
		if err := copies(ctx); err != nil {
			return err
		}
	}
	if err := p.retire(ctx); err != nil {
		return err
	}
	fmt.Fprintf(o.Progress, "%d pods and %d budgets are written, after %.1fs\n", o.Pods, o.Budgets, time.Since(started).Seconds())
	if err := p.served(ctx); err != nil {
		return err
	}
	rest, err := atRest(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Progress, "the API server is at rest, after %.1fs\n", rest.Seconds())
	return nil
}

// namespaces by the API: they are few.
func (p *population) namespaces(ctx context.Context) error {
	for i := range p.Namespaces {
		if err := p.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(i)}}); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
	}
	return nil
}

func namespaceOf(i int) string { return fmt.Sprintf("team-%03d", i) }

// appOf names what belongs to budget i.
func (p *population) appOf(i int) (namespace, name string) {
	return namespaceOf(i % p.Namespaces), fmt.Sprintf("app-%05d", i)
}

// stateful budgets cover a StatefulSet, the others a Deployment.
func stateful(i int) bool { return i%2 == 0 }

// replicas of budget i: the pods are spread evenly.
func (p *population) replicas(i int) int {
	n := p.Pods / p.Budgets
	if i < p.Pods%p.Budgets {
		n++
	}
	return n
}

// meta is what differs between copies.
func meta(m *metav1.ObjectMeta, namespace, name string) {
	m.Namespace, m.Name, m.UID = namespace, name, uuid.NewUUID()
}

func (p *population) services(ctx context.Context) error {
	var service corev1.Service
	copyAs, err := p.store.template(ctx, "services/specs/"+nursery+"/app", &service)
	if err != nil {
		return err
	}
	return p.store.write(ctx, func(yield func(value) error) error {
		return p.each(func(_ int, namespace, name string) error {
			meta(&service.ObjectMeta, namespace, name)
			service.Spec.Selector = map[string]string{"app": name}
			return put(yield, copyAs, "services/specs/", namespace, name)
		})
	})
}

func (p *population) budgets(ctx context.Context) error {
	var budget v1alpha1.MeshPodDisruptionBudget
	copyAs, err := p.store.template(ctx, "meshpdb.io/meshpoddisruptionbudgets/"+nursery+"/app", &budget)
	if err != nil {
		return err
	}
	return p.store.write(ctx, func(yield func(value) error) error {
		return p.each(func(_ int, namespace, name string) error {
			meta(&budget.ObjectMeta, namespace, name)
			budget.Spec.Service = name
			return put(yield, copyAs, "meshpdb.io/meshpoddisruptionbudgets/", namespace, name)
		})
	})
}

// owners are a StatefulSet, or a Deployment and its ReplicaSet, of the same name and UID everywhere.
func (p *population) owners(ctx context.Context) error {
	var set appsv1.StatefulSet
	var deployment appsv1.Deployment
	var replicaSet appsv1.ReplicaSet
	copySet, err := p.store.template(ctx, "statefulsets/"+nursery+"/app", &set)
	copyDeployment, err2 := p.store.template(ctx, "deployments/"+nursery+"/app", &deployment)
	copyReplicaSet, err3 := p.store.template(ctx, "replicasets/"+nursery+"/app", &replicaSet)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	return p.store.write(ctx, func(yield func(value) error) error {
		return p.each(func(i int, namespace, name string) error {
			replicas := int32(p.replicas(i))
			if stateful(i) {
				meta(&set.ObjectMeta, namespace, name)
				set.UID, set.Spec.Replicas = ownerUID(name), &replicas
				return put(yield, copySet, "statefulsets/", namespace, name)
			}
			meta(&deployment.ObjectMeta, namespace, name)
			deployment.Spec.Replicas = &replicas
			meta(&replicaSet.ObjectMeta, namespace, name)
			replicaSet.UID, replicaSet.Spec.Replicas = ownerUID(name), &replicas
			replicaSet.OwnerReferences = []metav1.OwnerReference{controller("Deployment", name, deployment.UID)}
			return errors.Join(put(yield, copyDeployment, "deployments/", namespace, name), put(yield, copyReplicaSet, "replicasets/", namespace, name))
		})
	})
}

// ownerUID is known to the pods without a look-up.
func ownerUID(name string) types.UID { return types.UID("owner-of-pods-of-" + name) }

func controller(kind, name string, uid types.UID) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: name, UID: uid, Controller: &yes, BlockOwnerDeletion: &yes}
}

func (p *population) pods(ctx context.Context) error {
	var pod corev1.Pod
	copyAs, err := p.store.template(ctx, "pods/"+nursery+"/app", &pod)
	if err != nil {
		return err
	}
	n := 0
	return p.store.write(ctx, func(yield func(value) error) error {
		return p.each(func(i int, namespace, app string) error {
			for j := range p.replicas(i) {
				n++
				dress(&pod, namespace, app, j, stateful(i))
				pod.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
				pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
				if err := put(yield, copyAs, "pods/", namespace, pod.Name); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// dress gives a pod the names that its owner would give it.
func dress(pod *corev1.Pod, namespace, app string, ordinal int, stateful bool) {
	name := fmt.Sprintf("%s-%d", app, ordinal)
	pod.Labels = map[string]string{"app": app, "app.kubernetes.io/name": app, "app.kubernetes.io/part-of": namespace}
	kind := "StatefulSet"
	if stateful {
		pod.Labels["statefulset.kubernetes.io/pod-name"] = name
		pod.Labels["apps.kubernetes.io/pod-index"] = fmt.Sprint(ordinal)
		pod.Labels["controller-revision-hash"] = app + "-7b4fbb8d49"
	} else {
		kind, name = "ReplicaSet", fmt.Sprintf("%s-7b4fbb8d49-%05d", app, ordinal)
		pod.Labels["pod-template-hash"] = "7b4fbb8d49"
	}
	meta(&pod.ObjectMeta, namespace, name)
	pod.OwnerReferences = []metav1.OwnerReference{controller(kind, app, ownerUID(app))}
}

// each visits what every budget stands for.
func (p *population) each(visit func(i int, namespace, name string) error) error {
	for i := range p.Budgets {
		namespace, name := p.appOf(i)
		if err := visit(i, namespace, name); err != nil {
			return err
		}
	}
	return nil
}

func put(yield func(value) error, copyAs func(string) (value, error), resource, namespace, name string) error {
	v, err := copyAs(resource + namespace + "/" + name)
	if err != nil {
		return fmt.Errorf("encode %s%s/%s: %w", resource, namespace, name, err)
	}
	return yield(v)
}

// served waits until the API server's caches have all that was written: its
// answer to a consistent list is as new as etcd is. While it catches up it may
// answer that it cannot in time.
func (p *population) served(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		empty := client.InNamespace(nursery)
		err := errors.Join(
			p.client.List(ctx, &corev1.PodList{}, empty), p.client.List(ctx, &corev1.ServiceList{}, empty),
			p.client.List(ctx, &appsv1.ReplicaSetList{}, empty), p.client.List(ctx, &v1alpha1.MeshPodDisruptionBudgetList{}, empty),
		)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await API server: %w", err)
		case <-tick.C:
		}
	}
}

// atRest waits until the API server has nothing left to do: a hundred thousand
// objects that appear within seconds keep it busy for longer than it takes a
// controller to start, which is what is to be measured.
func atRest(ctx context.Context, c *sandbox.Cluster) (time.Duration, error) {
	const period, idle = 2 * time.Second, 0.1
	started := time.Now()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for before := -1.0; ; {
		metrics, err := c.Client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return 0, fmt.Errorf("await rest of API server: %w", err)
		}
		used := sample(metrics, "process_cpu_seconds_total")
		if before >= 0 && used-before < idle*period.Seconds() {
			return time.Since(started), nil
		}
		before = used
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("await rest of API server: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func bound() *intstr.IntOrString {
	one := intstr.FromInt32(1)
	return &one
}
