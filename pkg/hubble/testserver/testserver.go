// Package testserver shows decisions to tests as a controller does, by Hubble's API.
package testserver

import (
	"context"
	"net"
	"testing"

	"github.com/meshpdb/meshpdb/pkg/hubble"
)

// Start serves what is published to the Observer on a listener until the test ends; files are nil without TLS.
func Start(t testing.TB, config hubble.Config, listener net.Listener, files *hubble.TLS) *hubble.Observer {
	t.Helper()
	o, err := hubble.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- o.Run(ctx) }()
	go func() { done <- hubble.Server{Listener: listener, TLS: files, Log: config.Log}.Serve(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return o
}
