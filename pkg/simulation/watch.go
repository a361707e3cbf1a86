package simulation

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watch is one standing watch, as etcd's client keeps it: events in order, each
// once; after a lost connection it goes on from where it was, at whatever etcd
// the new one leads to.
type watch struct {
	client   *storeClient
	key, end []byte
	// next is the first revision that was not told yet.
	next int64
	told chan clientv3.WatchResponse
	// busy: an answer is under way. progress: somebody asked how far it has come.
	busy, progress bool
	cancelled      atomic.Bool
}

// watchBuffer is how many answers wait for whoever began the watch.
const watchBuffer = 8

// Watch implements clientv3.Watcher.
func (k *storeClient) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, options...)
	w := &watch{client: k, key: op.KeyBytes(), end: op.RangeBytes(), next: op.Rev(), told: make(chan clientv3.WatchResponse, watchBuffer)}
	context.AfterFunc(ctx, func() { w.cancelled.Store(true) })
	registered := false
	for {
		_, err := do[bool](ctx, &call{
			process: k.process, link: k.link, key: fmt.Sprintf("%s watch %s from %d", k.name, w.key, w.next), lost: errUnavailable,
			effect: func() (any, error) {
				if k.cut() || k.connected() == nil {
					return nil, errUnavailable
				}
				if w.next == 0 {
					w.next = k.current.store.Revision() + 1
				}
				if !registered {
					registered = true
					k.watches = append(k.watches, w)
				}
				w.pump()
				return true, nil
			},
		})
		// Etcd's client tries again for as long as the context lasts.
		if err == nil || ctx.Err() != nil || k.process.isDead() {
			return w.told
		}
	}
}

// RequestProgress implements clientv3.Watcher.
func (k *storeClient) RequestProgress(ctx context.Context) error {
	_, err := do[bool](ctx, &call{
		process: k.process, link: k.link, key: k.name + " request progress", lost: errUnavailable,
		effect: func() (any, error) {
			for _, w := range k.watches {
				w.progress = true
				w.pump()
			}
			return true, nil
		},
	})
	return err
}

// Close implements clientv3.Watcher.
func (k *storeClient) Close() error { return nil }

// pump lets all watches tell what there is to tell.
func (k *storeClient) pump() {
	live := k.watches[:0]
	for _, w := range k.watches {
		if !w.cancelled.Load() {
			live = append(live, w)
			w.pump()
		}
	}
	clear(k.watches[len(live):])
	k.watches = live
}

// pump sends the next answer on its way, if there is one and none is yet.
func (w *watch) pump() {
	k := w.client
	i := k.current
	if w.busy || w.cancelled.Load() || i == nil || !i.up || i.life != k.life || k.cut() {
		return
	}
	answer := clientv3.WatchResponse{Header: *i.store.Header()}
	next := w.next
	events, err := i.store.Events(w.key, w.end, w.next)
	switch {
	case err != nil:
		answer.Canceled, answer.CompactRevision = true, i.store.Compacted()
	case len(events) > 0:
		for _, e := range events {
			answer.Events = append(answer.Events, (*clientv3.Event)(copyEvent(e)))
		}
		next = events[len(events)-1].Kv.ModRevision + 1
	case w.progress && i.store.Revision()+1 >= w.next:
		w.progress = false
		next = i.store.Revision() + 1
	default:
		return
	}
	w.busy = true
	world, life := k.process.world, k.life
	delay := world.delay(world.linkDelay(k.link))
	if hung := k.process.hungUntil - world.now(); hung > 0 {
		delay += hung
	}
	world.at(world.now()+delay, fmt.Sprintf("%s tells %s of %d events until %d", k.name, w.key, len(events), next), func() bool {
		w.busy = false
		if k.process.isDead() || w.cancelled.Load() {
			return false
		}
		if k.current != i || i.life != life || len(w.told) == cap(w.told) {
			// Lost with the connection: the next one tells it again. Or the call that
			// began the watch has not come back yet, and nobody listens.
			w.pump()
			return false
		}
		w.next = next
		if answer.Canceled {
			w.cancelled.Store(true)
		}
		// What follows is drawn first: whoever is told may cancel the watch at once.
		w.pump()
		w.told <- answer
		if answer.Canceled {
			close(w.told)
		}
		return true
	})
}

func copyEvent(e *mvccpb.Event) *mvccpb.Event {
	c := *e
	return &c
}
