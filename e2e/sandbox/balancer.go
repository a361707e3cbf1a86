package sandbox

import (
	"errors"
	"io"
	"net"
	"sync"
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
}

func newBalancer(l net.Listener, backends func() []string) *balancer {
	b := &balancer{listener: l, backends: backends, conns: map[net.Conn]struct{}{}}
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

	var other sync.WaitGroup
	other.Go(func() { splice(backend, client) })
	splice(client, backend)
	other.Wait()
}

// splice copies until one side ends and then ends the writing direction of the other. A reset ends both.
func splice(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
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
