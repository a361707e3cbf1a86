// Package deploy is the manifests of this version, for programs that compare
// with them what is installed. They are installed by `kubectl apply -k deploy`.
package deploy

import _ "embed" // of the manifests

var (
	// Webhooks is webhooks.yaml.
	//go:embed webhooks.yaml
	Webhooks []byte
	// RBAC is rbac.yaml.
	//go:embed rbac.yaml
	RBAC []byte
)
