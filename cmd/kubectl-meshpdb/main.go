// Command kubectl-meshpdb is `kubectl meshpdb`: see package plugin.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	// Credentials of clouds, as kubectl has them.
	_ "k8s.io/client-go/plugin/pkg/client/auth"

	"github.com/meshpdb/meshpdb/pkg/plugin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cmd := plugin.NewCommand(plugin.Config{
		IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
		Now:       time.Now, Version: version(), Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	})
	err := cmd.ExecuteContext(ctx)
	code, told := plugin.CodeOf(err)
	if !told {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	stop()
	os.Exit(code)
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
