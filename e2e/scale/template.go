package scale

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// originals are the objects that the API server writes once, of the size that they have in real clusters.
func originals() []client.Object {
	labels := map[string]string{"app": "app"}
	named := metav1.ObjectMeta{Namespace: nursery, Name: "app", Labels: labels}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}
	none := int32(0)
	bare := podSpec()
	bare.NodeName = "c1-node-1"
	return []client.Object{
		&corev1.Service{ObjectMeta: named, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: labels, Ports: []corev1.ServicePort{{Name: "sql", Port: 26257}}}},
		&appsv1.StatefulSet{ObjectMeta: named, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template, ServiceName: "app"}},
		&appsv1.Deployment{ObjectMeta: named, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}},
		&appsv1.ReplicaSet{ObjectMeta: named, Spec: appsv1.ReplicaSetSpec{Replicas: &none, Selector: selector, Template: template}},
		&v1alpha1.MeshPodDisruptionBudget{ObjectMeta: named, Spec: v1alpha1.MeshPodDisruptionBudgetSpec{Service: "app", MaxUnavailable: bound()}},
		&corev1.Pod{ObjectMeta: named, Spec: bare},
	}
}

func podSpec() corev1.PodSpec {
	var containers []corev1.Container
	for _, name := range []string{"db", "exporter"} {
		c := corev1.Container{
			Name: name, Image: "registry.example.com/databases/" + name + ":v1.2.3",
			Args:         []string{"--store=/data", "--advertise-host=$(POD_NAME).app.$(POD_NAMESPACE).svc"},
			Ports:        []corev1.ContainerPort{{Name: name, ContainerPort: 8080}},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "config", MountPath: "/config"}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				Exec: &corev1.ExecAction{Command: []string{"/bin/ready"}},
			}},
		}
		for i := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: "a value of some length"})
		}
		containers = append(containers, c)
	}
	return corev1.PodSpec{
		Containers: containers,
		Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "app"}}}},
		},
	}
}

// running is the status of a pod that serves.
func running() corev1.PodStatus {
	now, started := metav1.Now(), true
	status := corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "192.168.0.1", PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, StartTime: &now}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range podSpec().Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: "sha256:" + fmt.Sprintf("%064d", 1), ContainerID: "containerd://" + fmt.Sprintf("%064d", 2),
			Ready: true, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return status
}

// templates writes the originals.
func (p *population) templates(ctx context.Context) error {
	if err := p.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: nursery}}); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	if err := p.client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: nursery, Name: "default"}}); err != nil {
		return fmt.Errorf("create service account: %w", err)
	}
	for _, o := range originals() {
		if err := p.client.Create(ctx, o); err != nil {
			return fmt.Errorf("create %T: %w", o, err)
		}
		if pod, ok := o.(*corev1.Pod); ok {
			pod.Status = running()
			if err := p.client.Status().Update(ctx, pod); err != nil {
				return fmt.Errorf("write status of pod: %w", err)
			}
		}
	}
	return nil
}

// retire removes the originals, which are nobody's.
func (p *population) retire(ctx context.Context) error {
	for _, o := range originals() {
		if err := p.client.Delete(ctx, o, client.GracePeriodSeconds(0)); err != nil {
			return fmt.Errorf("delete %T: %w", o, err)
		}
	}
	return nil
}
