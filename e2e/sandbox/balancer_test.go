package sandbox

import (
	"io"
	"net"
	"slices"
	"testing"
)

func TestBalancerSkipsDeadBackends(t *testing.T) {
	a, b, dead := namedServer(t, "a"), namedServer(t, "b"), deadAddress(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	balancer := newBalancer(l, func() []string { return []string{a, dead, b} })
	defer balancer.close()
	var met []string
	for range 6 {
		met = append(met, ask(t, balancer.address()))
	}
	if !slices.Contains(met, "a") || !slices.Contains(met, "b") || slices.Contains(met, "") {
		t.Errorf("met %q", met)
	}
}

func TestBalancerWithoutBackends(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	balancer := newBalancer(l, func() []string { return nil })
	if got := ask(t, balancer.address()); got != "" {
		t.Errorf("met %q", got)
	}
	balancer.close()
	if c, err := net.Dial("tcp4", balancer.address()); err == nil {
		_ = c.Close()
		t.Error("listens after close")
	}
}

// namedServer answers every connection with its name.
func namedServer(t *testing.T, name string) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func deadAddress(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func ask(t *testing.T, address string) string {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer, _ := io.ReadAll(c) // a connection that the balancer gives up may end by a reset
	return string(answer)
}
