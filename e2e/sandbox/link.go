package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// link is the network path by which one cluster reads another: a proxy with half of the round-trip time in each
// direction, which can be cut.
//
// A cut is silent, like lost packets: connections stay open and nothing arrives, until the reader's own deadlines.
// Healing resets the connections that were open during the cut, because what was sent meanwhile is lost.
type link struct {
	from, to string
	proxy    *toxiproxy.Proxy

	mu  sync.Mutex
	rtt time.Duration
	cut bool
}

// toxic is how toxiproxy wants a disturbance described.
type toxic struct {
	Name       string           `json:"name"`
	Type       string           `json:"type"`
	Stream     string           `json:"stream"`
	Attributes map[string]int64 `json:"attributes"`
}

// directions of a toxiproxy connection, as it names them.
func directions() []string { return []string{"upstream", "downstream"} }

// newLink listens on listen and forwards to upstream.
func newLink(from, to, listen, upstream string) (*link, error) {
	// The server is only what toxiproxy hangs its proxies on; its HTTP interface is never started.
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &link{from: from, to: to, proxy: toxiproxy.NewProxy(server, from+"->"+to, listen, upstream)}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("open link %s->%s: %w", from, to, err)
	}
	return l, nil
}

func (l *link) close() { l.proxy.Stop() }

func (l *link) setRTT(rtt time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rtt == l.rtt {
		return nil
	}
	// Replaced, not updated: toxiproxy updates the value under the feet of the connections that use it.
	if l.rtt > 0 {
		if err := l.remove("latency"); err != nil {
			return err
		}
	}
	l.rtt = rtt
	if rtt == 0 {
		return nil
	}
	return l.add("latency", map[string]int64{"latency": (rtt / 2).Milliseconds()})
}

func (l *link) setCut(cut bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cut == l.cut {
		return nil
	}
	l.cut = cut
	if cut {
		return l.add("timeout", map[string]int64{"timeout": 0}) // 0: drop everything, close nothing
	}
	return l.remove("timeout")
}

func (l *link) add(kind string, attributes map[string]int64) error {
	for _, d := range directions() {
		description, err := json.Marshal(toxic{Name: kind + "-" + d, Type: kind, Stream: d, Attributes: attributes})
		if err == nil {
			_, err = l.proxy.Toxics.AddToxicJson(strings.NewReader(string(description)))
		}
		if err != nil {
			return fmt.Errorf("disturb link %s->%s: %w", l.from, l.to, err)
		}
	}
	return nil
}

func (l *link) remove(kind string) error {
	var errs []error
	for _, d := range directions() {
		errs = append(errs, l.proxy.Toxics.RemoveToxic(context.Background(), kind+"-"+d))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("repair link %s->%s: %w", l.from, l.to, err)
	}
	return nil
}
