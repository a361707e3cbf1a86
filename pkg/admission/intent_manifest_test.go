package admission

import (
	"bytes"
	"maps"
	"os"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The manifest sends every kind that Intents knows, and meshpdb can hold up none of them by not answering.
func TestIntentsAreSent(t *testing.T) {
	content, err := os.ReadFile("../../deploy/webhooks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sent := map[metav1.GroupResource]string{}
	for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
		var configuration admissionregistrationv1.ValidatingWebhookConfiguration
		if err := yaml.Unmarshal(document, &configuration); err != nil {
			t.Fatal(err)
		}
		for _, w := range configuration.Webhooks {
			if *w.ClientConfig.Service.Path != "/validate-intent" {
				continue
			}
			if *w.FailurePolicy != admissionregistrationv1.Ignore {
				t.Errorf("%s has failurePolicy %s", w.Name, *w.FailurePolicy)
			}
			if *w.TimeoutSeconds < int32(intentTimeout.Seconds())+1 || *w.TimeoutSeconds > 5 {
				t.Errorf("%s waits for %d s, the handler for %s", w.Name, *w.TimeoutSeconds, intentTimeout)
			}
			for _, rule := range w.Rules {
				for _, resource := range rule.Resources {
					r := metav1.GroupResource{Group: rule.APIGroups[0], Resource: resource}
					sent[r] = kinds[r]
				}
			}
		}
	}
	if !maps.Equal(sent, kinds) {
		t.Errorf("sent are %v, known are %v", sent, kinds)
	}
}
