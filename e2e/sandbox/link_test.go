package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestLink(t *testing.T) {
	l, err := newLink("a", "b", "127.0.0.1:0", echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	c := dialLink(t, l)
	const rtt = 100 * time.Millisecond
	for _, want := range []time.Duration{0, rtt, rtt / 2, 0} {
		if err := l.setRTT(want); err != nil {
			t.Fatal(err)
		}
		took := min(exchange(t, c), exchange(t, c), exchange(t, c))
		if took < want || took > want+rtt/2 {
			t.Errorf("an exchange took %s with a round-trip time of %s", took, want)
		}
		if err := l.setCut(true); err != nil {
			t.Fatal(err)
		}
		if err := tryExchange(c, rtt*2); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an exchange over a cut link: %v", err)
		}
		fresh := dialLink(t, l)
		if err := tryExchange(fresh, rtt*2); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an exchange over a cut link, newly dialled: %v", err)
		}
		if err := l.setCut(false); err != nil {
			t.Fatal(err)
		}
		if err := tryExchange(c, slack); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection that lost data lives on: %v", err)
		}
		c = dialLink(t, l)
	}
}

func dialLink(t *testing.T, l *link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", l.proxy.Listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange is how long a line takes there and back.
func exchange(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	started := time.Now()
	if err := tryExchange(c, slack); err != nil {
		t.Fatal(err)
	}
	return time.Since(started)
}

func tryExchange(c net.Conn, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("echo is %q", line)
	}
	return err
}

func echoServer(t *testing.T) string {
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
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}
