package checkup

import (
	"bytes"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/deploy"
)

// ReadShipped decodes the manifests of this version.
func ReadShipped() (Shipped, error) {
	var s Shipped
	for _, document := range bytes.Split(bytes.Join([][]byte{deploy.Webhooks, deploy.RBAC}, []byte("\n---\n")), []byte("\n---\n")) {
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &head); err != nil {
			return s, fmt.Errorf("decode shipped manifest: %w", err)
		}
		var into any
		switch {
		case head.Kind == "ValidatingWebhookConfiguration":
			into = &s.Validating
		case head.Kind == "MutatingWebhookConfiguration":
			into = &s.Mutating
		case head.Kind == "ClusterRole" && head.Name == controllerRole:
			into = &s.ClusterRole
		case head.Kind == "Role" && head.Name == controllerRole:
			into = &s.Role
		default:
			continue
		}
		if err := yaml.UnmarshalStrict(document, into); err != nil {
			return s, fmt.Errorf("decode shipped %s: %w", head.Kind, err)
		}
	}
	return s, nil
}

// controllerRole names the roles of the controllers, and their bindings.
const controllerRole = "meshpdb-controller"
