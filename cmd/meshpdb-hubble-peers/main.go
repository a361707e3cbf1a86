// Command meshpdb-hubble-peers is the Hubble peer service that tells Relay of
// meshpdb's observers beside Cilium's agents. It asks no API server.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	o := defaults()
	o.flags(flag.CommandLine)
	flag.Parse()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, log); err != nil {
		fmt.Fprintln(os.Stderr, "meshpdb-hubble-peers:", err)
		os.Exit(1)
	}
}
