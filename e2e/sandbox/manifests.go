package sandbox

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	crdsv2 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/client/crds/v2"
	crdsv2alpha1 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/client/crds/v2alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

const fieldManager = "meshpdb-sandbox"

// applier applies manifests to one cluster.
type applier struct {
	cluster string
	client  dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

// applied is an object that was applied, to delete it again.
type applied struct {
	resource schema.GroupVersionResource
	name     string
}

func (c *Cluster) newApplier() (*applier, error) {
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", c.Name, err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", c.Name, err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	return &applier{cluster: c.Name, client: client, mapper: mapper}, nil
}

// apply applies one object and says where it is.
func (a *applier) apply(ctx context.Context, o *unstructured.Unstructured) (applied, error) {
	what := fmt.Sprintf("apply %s %s to %s", o.GetKind(), o.GetName(), a.cluster)
	gvk := o.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return applied{}, fmt.Errorf("%s: %w", what, err)
	}
	var target dynamic.ResourceInterface = a.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := o.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		target = a.client.Resource(mapping.Resource).Namespace(namespace)
	}
	if _, err = target.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return applied{}, fmt.Errorf("%s: %w", what, err)
	}
	return applied{resource: mapping.Resource, name: o.GetName()}, nil
}

// applyDefinitions applies CustomResourceDefinitions and waits until the API serves them.
func (a *applier) applyDefinitions(ctx context.Context, definitions []*unstructured.Unstructured) error {
	if len(definitions) == 0 {
		return nil
	}
	var all []applied
	for _, d := range definitions {
		one, err := a.apply(ctx, d)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	for _, d := range all {
		if err := a.awaitEstablished(ctx, d); err != nil {
			return err
		}
	}
	a.mapper.Reset()
	return nil
}

func (a *applier) awaitEstablished(ctx context.Context, d applied) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, nil, func(ctx context.Context) error {
		o, err := a.client.Resource(d.resource).Get(ctx, d.name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("await definition %s: %w", d.name, err)
		}
		// Not NestedSlice, which calls the null that stands here at first an error.
		conditions, _, err := unstructured.NestedFieldNoCopy(o.Object, "status", "conditions")
		if err != nil {
			return stopPolling{fmt.Errorf("await definition %s: %w", d.name, err)}
		}
		list, _ := conditions.([]any)
		for _, c := range list {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("await definition %s: not established", d.name)
	})
}

// applyCiliumDefinitions applies those of Cilium's definitions that clustermesh-apiserver reads.
func (c *Cluster) applyCiliumDefinitions(ctx context.Context) error {
	a, err := c.newApplier()
	if err != nil {
		return err
	}
	var all []*unstructured.Unstructured
	for name, from := range map[string]fs.FS{
		"ciliumnodes.yaml":          crdsv2.EmbedFS,
		"ciliumidentities.yaml":     crdsv2.EmbedFS,
		"ciliumendpoints.yaml":      crdsv2.EmbedFS,
		"ciliumendpointslices.yaml": crdsv2alpha1.EmbedFS,
	} {
		content, err := fs.ReadFile(from, name)
		if err != nil {
			return fmt.Errorf("read definition %s: %w", name, err)
		}
		objects, err := parseManifests(content)
		if err != nil {
			return fmt.Errorf("read definition %s: %w", name, err)
		}
		all = append(all, objects...)
	}
	return a.applyDefinitions(ctx, all)
}

// deployManifests are the objects in the checkout's deploy and deploy/crd, without what cannot run or exist here.
func deployManifests(root string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, pattern := range []string{"deploy/crd/*.yaml", "deploy/*.yaml"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("read manifests: %w", err)
			}
			objects, err := parseManifests(content)
			if err != nil {
				return nil, fmt.Errorf("read manifest %s: %w", path, err)
			}
			all = append(all, objects...)
		}
	}
	return slices.DeleteFunc(all, foreign), nil
}

// foreign objects stay out: workloads, because the sandbox runs their processes itself, and kinds of add-ons that
// a cluster here does not have.
func foreign(o *unstructured.Unstructured) bool {
	group := o.GroupVersionKind().Group
	switch o.GetKind() {
	case "Deployment", "DaemonSet", "Kustomization":
		return true
	}
	return group == "cert-manager.io" || strings.HasSuffix(group, ".cert-manager.io") || group == "monitoring.coreos.com"
}

func parseManifests(content []byte) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	var all []*unstructured.Unstructured
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case o.GetKind() != "" && o.GetAPIVersion() != "":
			all = append(all, o)
		}
	}
}

// redirectWebhooks points a webhook configuration at an address instead of a Service.
func redirectWebhooks(o *unstructured.Unstructured, address string, caBundle []byte) error {
	webhooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
	if err != nil {
		return fmt.Errorf("redirect webhooks of %s: %w", o.GetName(), err)
	}
	for _, w := range webhooks {
		w, ok := w.(map[string]any)
		if !ok {
			return fmt.Errorf("redirect webhooks of %s: a webhook is no object", o.GetName())
		}
		path, _, err := unstructured.NestedString(w, "clientConfig", "service", "path")
		if err != nil {
			return fmt.Errorf("redirect webhooks of %s: %w", o.GetName(), err)
		}
		w["clientConfig"] = map[string]any{
			"url":      "https://" + address + path,
			"caBundle": base64.StdEncoding.EncodeToString(caBundle),
		}
	}
	return unstructured.SetNestedSlice(o.Object, webhooks, "webhooks")
}

func isWebhookConfiguration(o *unstructured.Unstructured) bool {
	return o.GetKind() == "ValidatingWebhookConfiguration" || o.GetKind() == "MutatingWebhookConfiguration"
}

// applyDeployment applies the checkout's manifests: definitions and namespaces first, webhook configurations last,
// redirected to the balancer in front of the controllers.
func (c *Cluster) applyDeployment(ctx context.Context) error {
	objects, err := deployManifests(c.mesh.Binaries.Root)
	if err != nil {
		return err
	}
	a, err := c.newApplier()
	if err != nil {
		return err
	}
	var definitions, namespaces, others, webhooks []*unstructured.Unstructured
	for _, o := range objects {
		switch {
		case o.GetKind() == "CustomResourceDefinition":
			definitions = append(definitions, o)
		case o.GetKind() == "Namespace":
			namespaces = append(namespaces, o)
		case isWebhookConfiguration(o):
			webhooks = append(webhooks, o)
		default:
			others = append(others, o)
		}
	}
	if err := a.applyDefinitions(ctx, definitions); err != nil {
		return err
	}
	for _, o := range slices.Concat(namespaces, others) {
		if _, err := a.apply(ctx, o); err != nil {
			return err
		}
	}
	c.webhookConfig = nil
	for _, o := range webhooks {
		if err := redirectWebhooks(o, c.webhooks.address(), c.ca.pem); err != nil {
			return err
		}
		one, err := a.apply(ctx, o)
		if err != nil {
			return err
		}
		c.webhookConfig = append(c.webhookConfig, one)
	}
	return nil
}

// removeWebhooks deletes the webhook configurations, so that the cluster works without its controllers.
func (c *Cluster) removeWebhooks(ctx context.Context) error {
	a, err := c.newApplier()
	if err != nil {
		return err
	}
	for _, w := range c.webhookConfig {
		if err := a.client.Resource(w.resource).Delete(ctx, w.name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete webhook configuration %s of %s: %w", w.name, c.Name, err)
		}
	}
	c.webhookConfig = nil
	return nil
}
