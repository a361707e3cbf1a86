// Command meshpdb-controller is the admission webhook, the budget controller
// and the mesh peer of one cluster. Run two or more replicas: any of them
// decides, one of them publishes.
package main

import (
	"flag"
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

func main() {
	options := defaults()
	options.flags(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(ctrl.SetupSignalHandler(), options); err != nil {
		fmt.Fprintln(os.Stderr, "meshpdb-controller:", err)
		os.Exit(1)
	}
}
