// Command meshpdb-controller is the admission webhook, the budget controller
// and the mesh peer of one cluster. Run two or more replicas: any of them
// decides, one of them publishes.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// gcPercent is GOGC where the environment does not say otherwise.
const gcPercent = 50

func main() {
	options := defaults()
	options.flags(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if os.Getenv("GOGC") == "" {
		// Nearly all of what is in memory stays there. A heap that may double before it is
		// collected makes the process twice as large as what it holds.
		debug.SetGCPercent(gcPercent)
	}
	if err := run(ctrl.SetupSignalHandler(), options); err != nil {
		fmt.Fprintln(os.Stderr, "meshpdb-controller:", err)
		os.Exit(1)
	}
}
