package sandbox

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
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

func TestBalancerStrandsOpenConnections(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echo := echoServer(t)
	balancer := newBalancer(l, func() []string { return []string{echo} })
	defer balancer.close()
	old := dial(t, balancer.address())
	if got, err := say(old, "a"); got != "a" {
		t.Fatalf("heard %q, %v", got, err)
	}
	balancer.strand()
	if got, err := say(old, "b"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stranded connection says %q, %v", got, err)
	}
	if got, err := say(dial(t, balancer.address()), "c"); got != "c" {
		t.Errorf("a new connection says %q, %v", got, err)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends a letter and returns the one that comes back within a moment.
func say(c net.Conn, letter string) (string, error) {
	if _, err := io.WriteString(c, letter); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return "", err
	}
	heard := make([]byte, 1)
	_, err := io.ReadFull(c, heard)
	return strings.Trim(string(heard), "\x00"), err
}
