package mesh

import (
	"net"
	"slices"
	"sync"
)

// sockets are the connections that one etcd client has dialled.
//
// A load balancer or NAT that forgets a connection tells nobody. gRPC learns of
// it by pings, which clients may send every 10 s and no sooner, so it takes 13 s until it
// connects anew. Our own probes know after probeTimeout.
type sockets struct {
	mu   sync.Mutex
	open []*net.TCPConn
}

// add takes a connection in. It must stay what it is: gRPC sets
// TCP_USER_TIMEOUT on a *net.TCPConn and on nothing that wraps one.
func (s *sockets) add(conn net.Conn) net.Conn {
	socket, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(slices.DeleteFunc(s.open, closed), socket)
	return conn
}

func closed(socket *net.TCPConn) bool {
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	// Fails only if the socket is closed.
	return raw.Control(func(uintptr) {}) != nil
}

// reset closes all connections. gRPC fails what is under way on them and
// connects anew at once.
func (s *sockets) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, socket := range s.open {
		_ = socket.Close() // may be closed already
	}
	s.open = nil
}
