package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *story) controllers(t *testing.T) {
	ctx := t.Context()
	root := s.Binaries.Root
	binary := filepath.Join(t.TempDir(), "controller")
	err := goBuild(ctx, root, []string{"build", "-o", binary, "./e2e/sandbox/testdata/controller"})
	if err != nil {
		t.Fatal(err)
	}
	s.Binaries.Root = filepath.Join(root, "e2e", "sandbox", "testdata", "checkout")
	defer func() { s.Binaries.Root = root }()
	if err := s.StartControllers(ctx, binary, 2, "--extra=word"); err != nil {
		t.Fatal(err)
	}
	if err := s.StartControllers(ctx, binary, 2); err == nil {
		t.Error("started twice")
	}
	first := s.c1.Controllers[0]
	if log, err := os.ReadFile(first.Log); err != nil || !strings.Contains(string(log), `meshpdb-controller-1 of c1, extra "word"`) {
		t.Errorf("log %q, %v", log, err)
	}
	s.judged(t, "by both controllers")
	first.Kill()
	s.judged(t, "by the one that is left")
	s.c1.Controllers[1].Kill()
	if err := s.create(ctx, "refused"); err == nil || !apierrors.IsInternalError(err) {
		t.Errorf("with no controller: %v", err)
	}
	if err := errors.Join(first.Start(ctx), first.Ready(ctx)); err != nil {
		t.Fatal(err)
	}
	s.judged(t, "by the one that came back")
	if err := s.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	if first.Running() || len(s.c1.Controllers) > 0 {
		t.Error("controllers run after stop")
	}
	eventually(t, waitTimeout, func(ctx context.Context) error { return s.create(ctx, "refused") })
}

// judged checks that the webhook refuses what it should, repeatedly, so that the balancer goes round.
func (s *story) judged(t *testing.T, by string) {
	t.Helper()
	eventually(t, waitTimeout, func(ctx context.Context) error { // the API server learns of a webhook with a delay
		err := s.create(ctx, "refused")
		if err == nil {
			err = errors.Join(errors.New("created"), s.c1.Client.CoreV1().ConfigMaps("default").Delete(ctx, "refused", metav1.DeleteOptions{}))
		} else if strings.Contains(err.Error(), "refused by meshpdb-controller-") {
			err = nil
		}
		return err
	})
	for range 4 {
		if err := s.create(t.Context(), "refused"); err == nil || !strings.Contains(err.Error(), "refused by meshpdb-controller-") {
			t.Errorf("%s: %v", by, err)
		}
	}
}

func (s *story) create(ctx context.Context, name string) error {
	_, err := s.c1.Client.CoreV1().ConfigMaps("default").Create(ctx,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}
