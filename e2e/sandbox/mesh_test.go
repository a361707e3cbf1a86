package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

const (
	waitTimeout = time.Minute
	// slack is what a busy machine may add to a modelled delay.
	slack = 5 * time.Second
)

// TestMesh runs its parts in order on one mesh, which costs most of the time.
func TestMesh(t *testing.T) {
	m := Start(t, Options{
		Clusters: 2, Instances: 2, Nodes: 2,
		PodStart: Range{Min: time.Second, Max: 2 * time.Second},
		PodStop:  Range{Min: time.Second, Max: 2 * time.Second},
	})
	s := &story{Mesh: m, c1: m.Clusters[0], c2: m.Clusters[1]}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"pods live as long as the options say", s.podsFollowOptions},
		{"a global service is exported to peers", s.exportsGlobalService},
		{"a peer may not write", s.peerMayNotWrite},
		{"an expired certificate is refused", s.expiredCertificate},
		{"the round-trip time is felt", s.roundTripTime},
		{"a partition is one way and heals", s.partition},
		{"a killed instance comes back empty and is filled", s.killInstance},
		{"instances come and go", s.addInstance},
		{"an annotation makes a pod unready", s.unreadyAnnotation},
		{"kubelets try again what they gave up", s.syncPods},
		{"controllers judge until they are stopped", s.controllers},
		{"nothing runs after stop", s.stop},
	} {
		if !t.Run(part.name, part.run) {
			return // the rest would only tell of the same
		}
	}
}

type story struct {
	*Mesh
	c1, c2 *Cluster
}

func (s *story) podsFollowOptions(t *testing.T) {
	watch, err := s.c2.Client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	_, err = s.c2.Client.AppsV1().Deployments("default").Create(t.Context(), deployment("db"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await := podWaiter(t, watch)
	pod := await(func(_ string, p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	started := time.Now()
	pod = await(func(_ string, p *corev1.Pod) bool { return p.UID == pod.UID && podReady(p) })
	checkSpan(t, "start", time.Since(started), s.options.PodStart)
	if pod.Status.Phase != corev1.PodRunning || !strings.HasPrefix(pod.Status.PodIP, "10.2.") {
		t.Errorf("phase %s, address %s", pod.Status.Phase, pod.Status.PodIP)
	}
	err = s.c2.Client.CoreV1().Pods("default").Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await(func(_ string, p *corev1.Pod) bool { return p.UID == pod.UID && p.DeletionTimestamp != nil })
	deleted := time.Now()
	await(func(event string, p *corev1.Pod) bool { return p.UID == pod.UID && event == string(watchapi.Deleted) })
	checkSpan(t, "stop", time.Since(deleted), s.options.PodStop)
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: name}}},
			},
		},
	}
}

// podWaiter returns a function that takes events until one fits.
func podWaiter(t *testing.T, watch watchapi.Interface) func(func(string, *corev1.Pod) bool) *corev1.Pod {
	deadline := time.After(waitTimeout)
	return func(fits func(event string, p *corev1.Pod) bool) *corev1.Pod {
		t.Helper()
		for {
			select {
			case e := <-watch.ResultChan():
				pod, ok := e.Object.(*corev1.Pod)
				if !ok {
					t.Fatalf("watch ended: %v", e.Object)
				}
				if fits(string(e.Type), pod) {
					return pod
				}
			case <-deadline:
				t.Fatal("the pod did not get there in time")
			}
		}
	}
}

// checkSpan allows a tenth of a second for the moments at which a watch shows things.
func checkSpan(t *testing.T, what string, took time.Duration, want Range) {
	t.Helper()
	if took < want.Min-100*time.Millisecond || took > want.Max+slack {
		t.Errorf("%s took %s, want %s", what, took, want)
	}
}

func (s *story) exportsGlobalService(t *testing.T) {
	_, err := s.c2.Client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Annotations: map[string]string{"service.cilium.io/global": "true"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "db"},
			Ports:    []corev1.ServicePort{{Port: 5432, TargetPort: intstr.FromInt(5432)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client := s.peer(t, s.c1, "c2")
	eventually(t, waitTimeout, func(ctx context.Context) error {
		got, err := client.Get(ctx, "cilium/state/services/v1/c2/default/db")
		if err != nil {
			return err
		}
		if len(got.Kvs) == 0 || !strings.Contains(string(got.Kvs[0].Value), `"10.2.`) {
			return fmt.Errorf("service record with the pod's address: %v", got.Kvs)
		}
		return nil
	})
	eventually(t, waitTimeout, hasKey(client, "cilium/state/endpointslices/v1/c2/default/db-"))
	eventually(t, waitTimeout, hasKey(client, "cilium/cluster-config/c2"))
}

func (s *story) peerMayNotWrite(t *testing.T) {
	_, err := s.peer(t, s.c1, "c2").Put(t.Context(), "cilium/state/meshpdb/v1/c2/x", "1")
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("error is %v", err)
	}
}

func (s *story) expiredCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "clustermesh")
	if err := s.c1.writePeerDir(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, window := range []struct {
		notBefore, notAfter time.Time
		accepted            bool
	}{{now.Add(-time.Hour), now.Add(time.Hour), true}, {now.Add(-time.Hour), now.Add(-time.Minute), false}} {
		if _, _, err := s.IssueRemoteCert(dir, window.notBefore, window.notAfter); err != nil {
			t.Fatal(err)
		}
		client, err := openEtcdFile(t.Context(), filepath.Join(dir, "c2"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := within(t, slack, hasKey(client, "cilium/cluster-config/c2")); (err == nil) != window.accepted {
			t.Errorf("valid until %s: %v", window.notAfter, err)
		}
	}
}

func (s *story) roundTripTime(t *testing.T) {
	client := s.peer(t, s.c1, "c2")
	read := hasKey(client, "cilium/cluster-config/c2")
	const rtt = 300 * time.Millisecond
	for _, want := range []time.Duration{0, rtt, 0} {
		if err := s.SetRTT(want); err != nil {
			t.Fatal(err)
		}
		best := time.Hour
		for range 5 {
			started := time.Now()
			if err := within(t, slack, read); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(started))
		}
		if best < want || (want == 0 && best > rtt/2) {
			t.Errorf("a read took %s with a round-trip time of %s", best, want)
		}
	}
}

func (s *story) partition(t *testing.T) {
	if err := s.Partition("c1", "c3"); err == nil {
		t.Error("a link to nowhere was cut")
	}
	there, back := s.peer(t, s.c1, "c2"), s.peer(t, s.c2, "c1")
	read := hasKey(there, "cilium/cluster-config/c2")
	if err := within(t, slack, read); err != nil {
		t.Fatal(err)
	}
	if err := s.Partition("c1", "c2"); err != nil {
		t.Fatal(err)
	}
	if err := within(t, time.Second, read); err == nil {
		t.Error("read through a cut link")
	}
	if err := within(t, time.Second, hasKey(s.peer(t, s.c1, "c2"), "cilium/cluster-config/c2")); err == nil {
		t.Error("a new connection went through a cut link")
	}
	if err := within(t, slack, hasKey(back, "cilium/cluster-config/c1")); err != nil {
		t.Errorf("the opposite link: %v", err)
	}
	if err := s.Heal("c1", "c2"); err != nil {
		t.Fatal(err)
	}
	eventually(t, waitTimeout, read)
}

func (s *story) killInstance(t *testing.T) {
	ctx := t.Context()
	i := s.c2.Instances[0]
	const key, service = "cilium/state/meshpdb/v1/c2/mark", "cilium/state/services/v1/c2/default/db"
	admin, err := i.AdminClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Put(ctx, key, "1"); err != nil {
		t.Fatal(err)
	}
	if err := i.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if i.Running() {
		t.Error("runs after kill")
	}
	reader := s.peer(t, s.c1, "c2")
	eventually(t, waitTimeout, hasKey(reader, service)) // the other instance serves
	if err := i.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, waitTimeout, hasKey(admin, service))
	if got, err := admin.Get(ctx, key); err != nil || len(got.Kvs) > 0 {
		t.Errorf("kept %v, %v", got, err)
	}
}

func (s *story) addInstance(t *testing.T) {
	ctx := t.Context()
	added, err := s.c2.AddInstance(ctx)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := added.AdminClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	eventually(t, waitTimeout, hasKey(admin, "cilium/state/services/v1/c2/default/db"))
	all, err := openEtcdFile(ctx, filepath.Join(s.c2.KVStoreDir, "etcd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if got := all.Endpoints(); len(got) != 3 || got[2] != added.Endpoint {
		t.Errorf("endpoints are %q", got)
	}
	if err := s.c2.RemoveInstance(ctx, added); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(s.c2.KVStoreDir, "etcd.yaml"))
	if err != nil || strings.Contains(string(content), added.Endpoint) || len(s.c2.Instances) != 2 {
		t.Errorf("after removal: %d instances, %v\n%s", len(s.c2.Instances), err, content)
	}
}

func (s *story) unreadyAnnotation(t *testing.T) {
	pods := s.c2.Client.CoreV1().Pods("default")
	list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: "app=db"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d pods, %v", len(list.Items), err)
	}
	name := list.Items[0].Name
	for _, step := range []struct {
		value string
		ready bool
	}{{"null", true}, {`"x"`, false}, {"null", true}} {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, UnreadyAnnotation, step.value)
		_, err := pods.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, waitTimeout, func(ctx context.Context) error {
			pod, err := pods.Get(ctx, name, metav1.GetOptions{})
			if err == nil && podReady(pod) != step.ready {
				err = fmt.Errorf("pod is ready: %t, want %t", podReady(pod), step.ready)
			}
			return err
		})
	}
}

// syncPods has an API server fail when the kubelet says that a pod has started.
func (s *story) syncPods(t *testing.T) {
	failing := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "status-fails"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:                    "status.fails.invalid",
			ClientConfig:            admissionv1.WebhookClientConfig{URL: ptr.To("https://" + s.c2.addr + ":1/")},
			SideEffects:             ptr.To(admissionv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "stuck"}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/status"}},
			}},
		}},
	}
	webhooks := s.c2.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := webhooks.Create(t.Context(), failing, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "stuck"}}
	if _, err := s.c2.Client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.c2.Client.AppsV1().Deployments("stuck").Create(t.Context(), deployment("db"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, waitTimeout, func(context.Context) error {
		log, err := os.ReadFile(s.c2.logPath("kwok"))
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "failed to apply stage") && strings.Contains(line, `"pod":"stuck/`) {
				return err
			}
		}
		return errors.Join(err, errors.New("no pod was given up"))
	})
	if err := webhooks.Delete(t.Context(), failing.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := s.c2.Client.CoreV1().Pods("stuck")
	eventually(t, waitTimeout, func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		for _, p := range list.Items {
			_, failure := pods.Patch(ctx, p.Name, types.MergePatchType, []byte(`{"status":{"message":"x"}}`),
				metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "status")
			err = errors.Join(err, failure)
		}
		return err
	})
	if err := s.c2.SyncPods(t.Context()); err != nil { // once: each time delays the start anew
		t.Fatal(err)
	}
	eventually(t, waitTimeout, func(ctx context.Context) error {
		d, err := s.c2.Client.AppsV1().Deployments("stuck").Get(ctx, "db", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 1 {
			err = errors.New("the pod is still not ready")
		}
		return err
	})
}

func (s *story) stop(t *testing.T) {
	var pids []int
	for _, p := range s.launcher.procs {
		pids = append(pids, p.pid())
	}
	if len(pids) < 2*(5+2*2) {
		t.Errorf("only %d processes were started", len(pids))
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	if exists(s.Dir) {
		t.Errorf("%s still exists", s.Dir)
	}
}

func (s *story) peer(t *testing.T, from *Cluster, to string) *clientv3.Client {
	t.Helper()
	client, err := from.PeerClient(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// hasKey reads one key, or, if that ends with a separator, all keys that begin with it. The difference matters: of its
// cluster-config a peer may read the one key, not a range.
func hasKey(client *clientv3.Client, key string) func(context.Context) error {
	var options []clientv3.OpOption
	if strings.HasSuffix(key, "/") || strings.HasSuffix(key, "-") {
		options = append(options, clientv3.WithPrefix())
	}
	return func(ctx context.Context) error {
		got, err := client.Get(ctx, key, options...)
		if err == nil && len(got.Kvs) == 0 {
			err = fmt.Errorf("no key %s", key)
		}
		return err
	}
}

func within(t *testing.T, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return ask(ctx)
}
