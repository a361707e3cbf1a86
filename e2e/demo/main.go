package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

// interrupted is what a shell reports after Ctrl-C.
const interrupted = 130

func main() {
	// What the client libraries say would tear the table.
	ctrl.SetLogger(logr.Discard())
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, and its children with it
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process. It says its verdict and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	d := &demo{options: o, screen: newScreen(stdout)}
	err = d.run(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stdout, "interrupted")
		return interrupted
	case err != nil:
		fmt.Fprintln(stdout, "broken:", oneLine(err))
		return 1
	}
	fmt.Fprintln(stdout, "held")
	return 0
}

// oneLine is the text of an error that may be several joined ones.
func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }
