package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// auditLogMegabytes is far more than the controllers of one mesh make it log: the log is never rotated, so that one
// file has all of it.
const auditLogMegabytes = 2000

// ControllerUser is who the controllers are to their API server.
const ControllerUser = "system:serviceaccount:" + controllerNamespace + ":" + controllerAccount

// AuditEvent is one request to a cluster's API server.
type AuditEvent struct {
	Verb, Group, Resource, Subresource string
	Namespace, Name                    string
	User                               string
	// Credential differs between the controllers of a cluster.
	Credential string
	// Code is the HTTP status of the answer.
	Code int
	// Denied: no role permits it. Other things answer 403 as well, such as a namespace that is ending.
	Denied bool
	// Annotations are those of the audit event, webhooks' included.
	Annotations map[string]string
	// Time is when the request arrived, Done when it was answered. A watch is done when it begins.
	Time, Done time.Time
}

func (c *Cluster) auditPolicyPath() string {
	return filepath.Join(c.dir, "kube-apiserver", "audit.yaml")
}

func (c *Cluster) auditLogPath() string { return c.logPath("audit") }

// writeAuditPolicy restricts the log to the controllers and to those who delete pods, the kubelets excepted: everybody
// else's requests would slow the API server down.
func (c *Cluster) writeAuditPolicy() error {
	policy := fmt.Sprintf(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [%q]
- level: None
  userGroups: ["system:nodes"]
- level: Metadata
  verbs: [delete, deletecollection]
  resources: [{group: "", resources: [pods]}]
- level: None
`, ControllerUser)
	return writeFiles(filepath.Dir(c.auditPolicyPath()), map[string][]byte{filepath.Base(c.auditPolicyPath()): []byte(policy)})
}

// Audit returns the requests of the cluster's controllers that arrived at since or later, in the order in which they
// were answered. What was answered just now may be missing.
func (c *Cluster) Audit(since time.Time) ([]AuditEvent, error) {
	return c.audit(since, func(e AuditEvent) bool { return e.User == ControllerUser })
}

// PodDeletions returns who but a kubelet or meshpdb asked for the deletion of pods of a namespace, as Audit does.
func (c *Cluster) PodDeletions(namespace string, since time.Time) ([]AuditEvent, error) {
	return c.audit(since, func(e AuditEvent) bool {
		return e.User != ControllerUser && e.Namespace == namespace && e.Resource == "pods" && e.Subresource == ""
	})
}

func (c *Cluster) audit(since time.Time, match func(AuditEvent) bool) ([]AuditEvent, error) {
	content, err := os.ReadFile(c.auditLogPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log of %s: %w", c.Name, err)
	}
	all, err := parseAudit(content, since)
	return slices.DeleteFunc(all, func(e AuditEvent) bool { return !match(e) }), err
}

// auditRecord is what is used of a line of the log, in the format of audit.k8s.io/v1.
type auditRecord struct {
	Stage string `json:"stage"`
	Verb  string `json:"verb"`
	User  struct {
		Username string              `json:"username"`
		Extra    map[string][]string `json:"extra"`
	} `json:"user"`
	ObjectRef struct {
		APIGroup, Resource, Subresource, Namespace, Name string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Annotations              map[string]string `json:"annotations"`
	RequestReceivedTimestamp metav1.MicroTime  `json:"requestReceivedTimestamp"`
	StageTimestamp           metav1.MicroTime  `json:"stageTimestamp"`
}

func parseAudit(content []byte, since time.Time) ([]AuditEvent, error) {
	var all []AuditEvent
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // still being written
		}
		var r auditRecord
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("parse audit log: %w", err)
		}
		// A watch is told when it begins and when it ends.
		if r.RequestReceivedTimestamp.Time.Before(since) || r.Verb == "watch" && r.Stage != "ResponseStarted" {
			continue
		}
		e := AuditEvent{
			Verb: r.Verb, Group: r.ObjectRef.APIGroup, Resource: r.ObjectRef.Resource, Subresource: r.ObjectRef.Subresource,
			Namespace: r.ObjectRef.Namespace, Name: r.ObjectRef.Name, User: r.User.Username, Code: r.ResponseStatus.Code, Annotations: r.Annotations,
			Denied: r.Annotations["authorization.k8s.io/decision"] == "forbid",
			Time:   r.RequestReceivedTimestamp.Time, Done: r.StageTimestamp.Time,
		}
		if id := r.User.Extra["authentication.kubernetes.io/credential-id"]; len(id) > 0 {
			e.Credential = id[0]
		}
		all = append(all, e)
	}
	return all, nil
}
