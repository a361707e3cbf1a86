package scale

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
)

const (
	// batch is below etcd's default --max-txn-ops of 128.
	batch = 100
	// writers that put batches at once.
	writers = 4
)

// store is the etcd behind a kube-apiserver.
type store struct {
	client *clientv3.Client
	codec  *protobuf.Serializer
}

func openStore(address string) (*store, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + address}, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	return &store{client: client, codec: protobuf.NewSerializer(clientgoscheme.Scheme, clientgoscheme.Scheme)}, nil
}

func (s *store) close() { s.client.Close() }

// read returns what the API server wrote for an object: "pods/n/p".
func (s *store) read(ctx context.Context, path string) ([]byte, error) {
	response, err := s.client.Get(ctx, "/registry/"+path)
	if err != nil {
		return nil, fmt.Errorf("read %s from etcd: %w", path, err)
	}
	if len(response.Kvs) == 0 {
		return nil, fmt.Errorf("read %s from etcd: it is not there", path)
	}
	return response.Kvs[0].Value, nil
}

// value is one object as the API server stores it.
type value struct{ path, content string }

// template makes copies of an object that the API server wrote. into receives
// the object; it is changed for each copy.
func (s *store) template(ctx context.Context, path string, into runtime.Object) (func(path string) (value, error), error) {
	content, err := s.read(ctx, path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(content, []byte("{")) {
		// Custom resources are stored as JSON.
		if err := json.Unmarshal(content, into); err != nil {
			return nil, fmt.Errorf("decode %s: %w", path, err)
		}
		return func(path string) (value, error) {
			content, err := json.Marshal(into)
			return value{path, string(content)}, err
		}, nil
	}
	_, kind, err := s.codec.Decode(content, nil, into)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	into.GetObjectKind().SetGroupVersionKind(*kind)
	return func(path string) (value, error) {
		var content bytes.Buffer
		err := s.codec.Encode(into, &content)
		return value{path, content.String()}, err
	}, nil
}

// write puts what produce yields, several batches at once.
func (s *store) write(ctx context.Context, produce func(yield func(value) error) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	var waiting []clientv3.Op
	flush := func() {
		ops := slices.Clone(waiting)
		waiting = waiting[:0]
		group.Go(func() error {
			_, err := s.client.Txn(ctx).Then(ops...).Commit()
			return err
		})
	}
	err := produce(func(v value) error {
		waiting = append(waiting, clientv3.OpPut("/registry/"+v.path, v.content))
		if len(waiting) == batch {
			flush()
		}
		return ctx.Err()
	})
	flush()
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("write objects to etcd: %w", err)
	}
	return nil
}
