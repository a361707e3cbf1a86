package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

const (
	deviceDriver = "devices.rows.meshpdb.io"
	deviceName   = "rows"
)

// pathDeviceTaint: a driver says that a device has failed, by a NoExecute taint in its
// ResourceSlice. Who uses the device goes whatever the budget says, and its successor
// waits for the device, not for the budget. Scheduler and kube-controller-manager
// allocate, reserve, evict and give back; only the driver is played here.
func pathDeviceTaint(t *testing.T) {
	w := withDevices(t, "rows-device")
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	restore := exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	taintDevice(t, c1, `[{"key":"devices.rows.meshpdb.io/failed","effect":"NoExecute"}]`)
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantAudited(t, w, c1, since, deviceTaintManager, 200)
	wantDecided(t, before, 1, paths.DeviceTaint, "allowed", "Accounted")
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionAllowed", deviceTaintManager+" deletes "+pod.Name)
	wantClaims(t, w, c1)
	wantCounted(t, w, 3, 1)
	deletions, err := sandboxCluster(t, c1.Name).PodDeletions(w.Namespace, since)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deletions {
		if d.User == deviceTaintManager && d.Code != 200 && d.Code != 404 {
			t.Errorf("the device taint manager was answered with %d", d.Code)
		}
	}
	taintDevice(t, c1, "null")
	restore()
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCounted(t, w, 3, 3)
}

// withDevices is budgeted with one pod in each cluster, which needs the only device there is in it.
func withDevices(t *testing.T, namespace string) *scenario.Workload {
	t.Helper()
	for _, c := range mesh.clusters {
		defineDevice(t, c, namespace)
	}
	one := int32(1)
	return ownedBy(t, namespace, one, func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) client.Object {
		source := deviceName
		template.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: deviceName, ResourceClaimTemplateName: &source}}
		template.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: deviceName}}
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": meta.Name}}, Template: template,
		}}
	})
}

// defineDevice writes what a driver and an administrator write of one device that any
// node of the cluster reaches, and by which template the pods of a namespace claim it.
func defineDevice(t *testing.T, c *scenario.Cluster, namespace string) {
	t.Helper()
	api, all := c.Client.ResourceV1(), true
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{api.ResourceSlices().Delete, api.DeviceClasses().Delete} {
			if err := remove(ctx, deviceName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: deviceName}, Spec: resourcev1.ResourceSliceSpec{
		Driver: deviceDriver, Pool: resourcev1.ResourcePool{Name: deviceName, Generation: 1, ResourceSliceCount: 1},
		AllNodes: &all, Devices: []resourcev1.Device{{Name: deviceName}},
	}}
	_, err := api.ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: deviceName}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: fmt.Sprintf("device.driver == %q", deviceDriver)}}},
	}}
	if _, err := api.DeviceClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The workload's own, which finds it there.
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: deviceName, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: deviceName},
	}}}}
	template := &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deviceName}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: claim},
	}
	if _, err := api.ResourceClaimTemplates(namespace).Create(t.Context(), template, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// taintDevice writes the taints of the cluster's device.
func taintDevice(t *testing.T, c *scenario.Cluster, taints string) {
	t.Helper()
	body := fmt.Sprintf(`{"spec":{"devices":[{"name":%q,"taints":%s}]}}`, deviceName, taints)
	if _, err := c.Client.ResourceV1().ResourceSlices().Patch(t.Context(), deviceName, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
