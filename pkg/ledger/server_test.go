package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/ledger"
)

// patience is how long anything may take on a busy machine.
const patience = 30 * time.Second

// server is the kube-apiserver that the package's tests share; each has a namespace of its own.
var server client.WithWatch

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cluster, err := sandbox.New(ctx, sandbox.Options{Clusters: 1, Nodes: 1, NoMesh: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	if server, err = connect(ctx, cluster.Clusters[0].Config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var serial atomic.Int64

// fresh returns a name that no test of this process has used, -count included.
func fresh(name string) string { return fmt.Sprintf("%s-%d", name, serial.Add(1)) }

// connect installs our definitions and returns a client that does not cache.
func connect(ctx context.Context, config *rest.Config) (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme))
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "crd", "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find definitions: %d files, %w", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var definition apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(content, &definition); err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		if err := c.Create(ctx, &definition); err != nil {
			return nil, fmt.Errorf("create %s: %w", definition.Name, err)
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.List(ctx, &v1alpha1.DisruptionLedgerList{})
		if err == nil {
			return c, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("await definitions: %w", err)
		}
	}
}

// traffic counts what passes a client and can interfere with it.
type traffic struct {
	client.Client
	reads, writes atomic.Int64

	mu sync.Mutex
	// around is put around every write.
	around func(ctx context.Context, write func() error) error
	// read is asked before every read.
	read func() error
}

func newTraffic() *traffic {
	t := &traffic{}
	t.Client = interceptor.NewClient(server, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			t.reads.Add(1)
			if err := t.asked(); err != nil {
				return err
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := t.asked(); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return t.write(ctx, func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return t.write(ctx, func() error { return c.Update(ctx, o, opts...) })
		},
	})
	return t
}

func (t *traffic) asked() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil {
		return nil
	}
	return t.read()
}

func (t *traffic) write(ctx context.Context, write func() error) error {
	t.writes.Add(1)
	t.mu.Lock()
	around := t.around
	t.mu.Unlock()
	if around == nil {
		return write()
	}
	return around(ctx, write)
}

// interfere puts around around every write from now on; nil for nothing.
func (t *traffic) interfere(around func(ctx context.Context, write func() error) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.around = around
}

// deafen makes every read fail; nil for none.
func (t *traffic) deafen(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = func() error { return err }
}

// gate holds writes up.
type gate struct {
	// arrived receives the context of each write, which then waits for open.
	arrived chan context.Context
	open    chan struct{}
}

func (t *traffic) gate() *gate {
	g := &gate{arrived: make(chan context.Context, 100), open: make(chan struct{})}
	t.interfere(func(ctx context.Context, write func() error) error {
		g.arrived <- ctx
		select {
		case <-g.open:
			return write()
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return g
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("%s: nothing happens", what)
		panic("unreachable")
	}
}

// of returns a claim on pod-<id> in a namespace.
func of(namespace, id string) claim.Claim {
	return claim.Claim{ID: id, UID: "pod-" + id, Namespace: namespace, Pod: "db-" + id, Cluster: "c1", Budgets: []string{namespace + "/db"}, Views: []string{"62863b3073ab1b58"}, Reason: "Eviction"}
}

// durable reads a namespace's claims as another process would, as ID=State/ticket/seq.
func durable(t *testing.T, namespace string) string {
	t.Helper()
	claims, err := ledger.New(server, "c1").Claims(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	return text(claims)
}

func text(claims []claim.Claim) string {
	var all []string
	for _, c := range claims {
		all = append(all, fmt.Sprintf("%s=%s/%d/%d", c.ID, c.State, c.Ticket, c.Seq))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
