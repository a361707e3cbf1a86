package sandbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Ports are taken below Linux's range for outgoing connections (32768 and up), so that a component which is down for a
// moment finds its port free when it comes back.
const (
	firstPort = 20000
	portCount = 12000
	portTries = 200
)

// addresses hands out loopback addresses and free ports. Each mesh draws a random 127.a.b.0/24, so that meshes of
// several processes do not meet.
type addresses struct {
	prefix string

	mu    sync.Mutex
	taken map[string]bool
}

func newAddresses() *addresses {
	return &addresses{
		prefix: fmt.Sprintf("127.%d.%d.", 16+rand.IntN(200), 1+rand.IntN(250)),
		taken:  map[string]bool{},
	}
}

// host is the address of a cluster.
func (a *addresses) host(id int) string { return a.prefix + strconv.Itoa(id) }

// listen opens a free port of a host.
func (a *addresses) listen(host string) (net.Listener, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range portTries {
		address := net.JoinHostPort(host, strconv.Itoa(firstPort+rand.IntN(portCount)))
		if a.taken[address] {
			continue
		}
		l, err := net.Listen("tcp4", address)
		switch {
		case err == nil:
			a.taken[address] = true
			return l, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("find port on %s: %w", host, err)
		}
	}
	return nil, fmt.Errorf("find port on %s: %d tries met ports in use", host, portTries)
}

// free finds n free ports of a host, as host:port. Another process could take one before it is used; the caller
// then sees portClash.
func (a *addresses) free(host string, n int) ([]string, error) {
	found := make([]string, n)
	for i := range found {
		l, err := a.listen(host)
		if err != nil {
			return nil, err
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err = errors.Join(err, l.Close()); err != nil {
			return nil, fmt.Errorf("find port on %s: %w", host, err)
		}
		found[i] = net.JoinHostPort(host, port)
	}
	return found, nil
}

// portClash tells whether err is the end of a process that found its port in use.
func portClash(err error) bool {
	return err != nil && strings.Contains(err.Error(), "address already in use")
}

// retryClash runs start with n fresh ports, again with others if one of them was taken meanwhile.
func (a *addresses) retryClash(host string, n int, start func(ports []string) error) error {
	const tries = 3
	var err error
	for range tries {
		var ports []string
		if ports, err = a.free(host, n); err != nil {
			return err
		}
		if err = start(ports); !portClash(err) {
			return err
		}
	}
	return err
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
