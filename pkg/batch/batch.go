package batch

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Serve answers all questions of a batch with one answer. Its context ends when
// that of every caller has.
type Serve[K comparable, Q, A any] func(ctx context.Context, key K, questions []Q) (A, error)

// Serial as a Group's patience: one batch at a time.
const Serial time.Duration = 0

// Group batches calls by key. It is safe for concurrent use.
type Group[K comparable, Q, A any] struct {
	// Panicked, if not nil, is told of a panic in Serve, which is an error to the
	// callers. Set it before the first call.
	Panicked func(value any, stack []byte)

	serve    Serve[K, Q, A]
	patience time.Duration

	mu     sync.Mutex
	queues map[K]*queue[Q, A]
}

// New returns a Group. A call that finds no batch of its key under way begins
// one at once. Others gather until none is under way any more or, unless
// patience is Serial, until the first of them has waited that long: so a burst
// shorter than patience costs two batches, and none waits for another's round trip.
func New[K comparable, Q, A any](patience time.Duration, serve Serve[K, Q, A]) *Group[K, Q, A] {
	return &Group[K, Q, A]{serve: serve, patience: patience, queues: map[K]*queue[Q, A]{}}
}

// queue is what is under way and what gathers for one key.
type queue[Q, A any] struct {
	running int
	waiting []*call[Q, A]
	timer   *time.Timer
}

type call[Q, A any] struct {
	ctx      context.Context
	question Q
	done     chan answer[A]
}

type answer[A any] struct {
	value A
	err   error
}

// Call asks and waits for the answer, or for the end of ctx; the batch then
// goes on for the others. The answer is shared: callers must not change it.
func (g *Group[K, Q, A]) Call(ctx context.Context, key K, question Q) (A, error) {
	c := &call[Q, A]{ctx: ctx, question: question, done: make(chan answer[A], 1)}
	g.mu.Lock()
	q := g.queues[key]
	if q == nil {
		q = &queue[Q, A]{}
		g.queues[key] = q
	}
	q.waiting = append(q.waiting, c)
	switch {
	case q.running == 0:
		g.begin(key, q)
	case g.patience != Serial && q.timer == nil:
		q.timer = time.AfterFunc(g.patience, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.queues[key] == q {
				g.begin(key, q)
			}
		})
	}
	g.mu.Unlock()
	select {
	case a := <-c.done:
		return a.value, a.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// begin starts a batch of those that wait, or forgets the key if there is nothing to do. It needs g.mu.
func (g *Group[K, Q, A]) begin(key K, q *queue[Q, A]) {
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	// Who has left has been told that it failed, and may be undoing it by now.
	calls := slices.DeleteFunc(q.waiting, func(c *call[Q, A]) bool { return c.ctx.Err() != nil })
	q.waiting = nil
	if len(calls) == 0 {
		if q.running == 0 {
			delete(g.queues, key)
		}
		return
	}
	q.running++
	// In a goroutine of its own: the first caller's context may end before the others'.
	// It ends with the batch, which the callers' contexts bound.
	go g.run(key, q, calls)
}

func (g *Group[K, Q, A]) run(key K, q *queue[Q, A], calls []*call[Q, A]) {
	a := g.answer(key, calls)
	for _, c := range calls {
		c.done <- a
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if q.running--; q.running == 0 {
		g.begin(key, q)
	}
}

func (g *Group[K, Q, A]) answer(key K, calls []*call[Q, A]) (a answer[A]) {
	defer func() {
		// A panic must refuse the callers, as one in their own goroutine would, not end the process.
		if p := recover(); p != nil {
			if g.Panicked != nil {
				g.Panicked(p, debug.Stack())
			}
			a = answer[A]{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	ctx, cancel := longest(calls)
	defer cancel()
	questions := make([]Q, len(calls))
	for i, c := range calls {
		questions[i] = c.question
	}
	a.value, a.err = g.serve(ctx, key, questions)
	return a
}

// longest returns a context that ends when every caller's has.
func longest[Q, A any](calls []*call[Q, A]) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	open := len(calls)
	stops := make([]func() bool, 0, len(calls))
	for _, c := range calls {
		stops = append(stops, context.AfterFunc(c.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if open--; open == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}
