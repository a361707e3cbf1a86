package scenario

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// answer reads an API server's answer as client-go would, and leaves the body
// to be read again.
func answer(response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil || response.StatusCode < http.StatusBadRequest {
		return err
	}
	var status metav1.Status
	if err := runtime.DecodeInto(scheme.Codecs.UniversalDeserializer(), body, &status); err != nil {
		return fmt.Errorf("answer %s could not be decoded: %w", response.Status, err)
	}
	return &apierrors.StatusError{ErrStatus: status}
}
