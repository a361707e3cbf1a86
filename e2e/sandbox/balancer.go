package sandbox

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// balancer stands for a Kubernetes Service: it forwards each connection to one backend, round robin, and to the next
// if that one cannot be dialled.
type balancer struct {
	listener net.Listener
	backends func() []string // host:port of those that the Service would select now
	serving  sync.WaitGroup

	mu     sync.Mutex
	next   int
	closed bool
	conns  map[net.Conn]struct{}
	pairs  map[*pair]struct{}
}

// pair is a connection that was accepted and the one that it is forwarded to.
type pair struct {
	client, backend net.Conn
	stranded        atomic.Bool
}

func newBalancer(l net.Listener, backends func() []string) *balancer {
	b := &balancer{listener: l, backends: backends, conns: map[net.Conn]struct{}{}, pairs: map[*pair]struct{}{}}
	b.serving.Go(b.accept)
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

// close ends all connections and waits for what served them.
func (b *balancer) close() {
	_ = b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for c := range b.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
}

func (b *balancer) accept() {
	for {
		client, err := b.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // a connection that ended before it was accepted
		}
		b.serving.Go(func() { b.serve(client) })
	}
}

func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	if !b.track(client) {
		return
	}
	defer b.untrack(client)
	backend := b.dial()
	if backend == nil {
		return
	}
	defer backend.Close()
	if !b.track(backend) {
		return
	}
	defer b.untrack(backend)

	p := &pair{client: client, backend: backend}
	b.pair(p, true)
	defer b.pair(p, false)
	var other sync.WaitGroup
	other.Go(func() { p.splice(backend, client) })
	p.splice(client, backend)
	other.Wait()
}

func (b *balancer) pair(p *pair, stands bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if stands {
		b.pairs[p] = struct{}{}
	} else {
		delete(b.pairs, p)
	}
}

// strand makes the connections that are open now go silent for good, as a load balancer or a NAT does that has forgotten
// them: what is sent is acknowledged and lost, and nobody is told. New connections are forwarded as ever.
func (b *balancer) strand() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.pairs {
		p.stranded.Store(true)
		// Wakes splice up.
		_ = p.client.SetReadDeadline(time.Now())
		_ = p.backend.SetReadDeadline(time.Now())
	}
}

// splice copies until one side ends and then ends the writing direction of the other. A reset ends both.
func (p *pair) splice(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if p.stranded.Load() {
		_ = from.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, from)
		if from == p.client {
			// Only the client's end may end a stranded connection.
			_ = p.backend.Close()
		}
		return
	}
	if err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

func (b *balancer) dial() net.Conn {
	backends := b.backends()
	b.mu.Lock()
	first := b.next
	b.next++
	b.mu.Unlock()
	for i := range backends {
		dialer := net.Dialer{Timeout: probeTimeout}
		if c, err := dialer.Dial("tcp4", backends[(first+i)%len(backends)]); err == nil {
			return c
		}
	}
	return nil
}

func (b *balancer) track(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.conns[c] = struct{}{}
	}
	return !b.closed
}

func (b *balancer) untrack(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}
