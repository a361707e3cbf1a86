package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// Measure starts a cluster, fills it, and measures controllers in it.
func Measure(ctx context.Context, o Options) (Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Result{}, err
	}
	m, err := sandbox.New(ctx, o.sandbox())
	if err != nil {
		return Result{}, err
	}
	result, err := measure(ctx, m, o)
	return result, errors.Join(err, m.Stop())
}

func measure(ctx context.Context, m *sandbox.Mesh, o Options) (Result, error) {
	r := Result{Pods: o.Pods, Budgets: o.Budgets, Namespaces: o.Namespaces}
	binary := o.Binary
	if binary == "" {
		var err error
		if binary, err = m.Binaries.Controller(ctx); err != nil {
			return r, err
		}
	}
	profiles, err := freeAddress()
	if err != nil {
		return r, err
	}
	if err := m.StartControllers(ctx, binary, 1, append([]string{"--pprof-bind-address=" + profiles}, o.Args...)...); err != nil {
		return r, err
	}
	c := m.Clusters[0]
	s := &subject{Options: o, cluster: c, controller: c.Controllers[0], profiles: "http://" + profiles + "/debug/pprof/"}
	if r.Empty, err = s.usage(ctx, true); err != nil {
		return r, err
	}
	s.controller.Stop(ctx)
	if err := populate(ctx, c, o); err != nil {
		return r, err
	}
	if r.First, err = s.run(ctx, "first"); err != nil {
		return r, fmt.Errorf("measure first start: %w", err)
	}
	if r.Again, err = s.run(ctx, "again"); err != nil {
		return r, fmt.Errorf("measure another start: %w", err)
	}
	return r, nil
}

// subject is the controller that is measured.
type subject struct {
	Options
	cluster    *sandbox.Cluster
	controller *sandbox.Controller
	// profiles is the URL of Go's profiles.
	profiles string
}

// run starts the controller, follows it until it is settled, and ends it.
func (s *subject) run(ctx context.Context, name string) (Run, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	var r Run
	before, err := s.life(ctx)
	if err != nil {
		return r, err
	}
	started := time.Now()
	profiled := s.profileCPU(ctx, name)
	if err := s.controller.Start(ctx); err != nil {
		return r, err
	}
	// It must give the lease back: the next one would wait for it.
	defer func() { s.controller.Stop(context.WithoutCancel(ctx)) }()
	r.Ready = time.Since(started)
	if r.AtReady, err = s.usage(ctx, false); err != nil {
		return r, err
	}
	fmt.Fprintf(s.Progress, "%s start: ready after %s, %s\n", name, r.Ready.Round(time.Millisecond), r.AtReady)
	if r.Published, err = s.await(ctx, started, "published", func(ctx context.Context) (string, error) { return s.published(ctx, before) }); err != nil {
		return r, err
	}
	if r.Written, err = s.await(ctx, started, "status written", s.written); err != nil {
		return r, err
	}
	if err := <-profiled; err != nil {
		return r, err
	}
	if err := s.profileHeap(ctx, name); err != nil {
		return r, err
	}
	if r.Settled, err = s.usage(ctx, true); err != nil {
		return r, err
	}
	fmt.Fprintf(s.Progress, "%s start: published after %s, written after %s, %s\n", name, r.Published.Round(time.Millisecond), r.Written.Round(time.Millisecond), r.Settled)
	return r, nil
}

// await asks until what is so. It rests five times as long as asking takes:
// what answers is what is measured.
func (s *subject) await(ctx context.Context, started time.Time, what string, ask func(context.Context) (string, error)) (time.Duration, error) {
	for {
		asked := time.Now()
		missing, err := ask(ctx)
		if err == nil && missing == "" {
			return time.Since(started), nil
		}
		if !s.controller.Running() {
			return 0, fmt.Errorf("await %s: the controller has ended, see %s", what, s.controller.Log)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("await %s: %s: %w", what, missing, errors.Join(err, context.Cause(ctx)))
		case <-time.After(max(100*time.Millisecond, 5*time.Since(asked))):
		}
	}
}

// life is the ID of the kvstore's incarnation, that is, of the controller that published last.
func (s *subject) life(ctx context.Context) (string, error) {
	client, err := s.cluster.Instances[0].AdminClient(ctx)
	if err != nil {
		return "", err
	}
	defer client.Close()
	var incarnation wire.Incarnation
	response, err := client.Get(ctx, wire.Key{Kind: wire.KindIncarnation, Cluster: s.cluster.Name}.String())
	if err == nil && len(response.Kvs) > 0 {
		err = wire.Unmarshal(response.Kvs[0].Value, &incarnation)
	}
	return incarnation.ID, err
}

// published counts the records in the kvstore, and wants a marker of another life than before.
func (s *subject) published(ctx context.Context, before string) (string, error) {
	client, err := s.cluster.Instances[0].AdminClient(ctx)
	if err != nil {
		return "", err
	}
	defer client.Close()
	var marker wire.Marker
	response, err := client.Get(ctx, wire.Key{Kind: wire.KindMarker, Cluster: s.cluster.Name}.String())
	if err != nil {
		return "", err
	}
	if len(response.Kvs) == 0 || wire.Unmarshal(response.Kvs[0].Value, &marker) != nil || marker.Incarnation == before {
		return "its marker", nil
	}
	own := wire.ClusterPrefix(s.cluster.Name)
	for prefix, n := range map[string]int{own + "budgets/": s.Budgets, own + "pods/": s.Pods} {
		response, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return "", err
		}
		if response.Count != int64(n) {
			return fmt.Sprintf("%d of %d below %s", response.Count, n, prefix), nil
		}
	}
	return "", nil
}

// profileCPU profiles a start; the channel yields once that is written.
func (s *subject) profileCPU(ctx context.Context, name string) <-chan error {
	done := make(chan error, 1)
	if s.Profiles == "" {
		done <- nil
		return done
	}
	go func() {
		var err error
		for ctx.Err() == nil {
			// Until the controller listens.
			if err = s.save(ctx, "profile?seconds=40", name+".cpu"); err == nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		done <- err
	}()
	return done
}

func (s *subject) profileHeap(ctx context.Context, name string) error {
	if s.Profiles == "" {
		return nil
	}
	return s.save(ctx, "heap?gc=1", name+".heap")
}

func (s *subject) save(ctx context.Context, profile, name string) error {
	content, err := fetch(ctx, s.profiles+profile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Profiles, 0o755); err != nil {
		return fmt.Errorf("save profile: %w", err)
	}
	return os.WriteFile(filepath.Join(s.Profiles, name), content, 0o644)
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", url, response.Status)
	}
	return content, err
}
