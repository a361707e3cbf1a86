package main

import (
	"flag"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		args, want string
	}{
		{"--cluster-name=c1", ""},
		{"--cluster-name=c1 --preemption=Enforce", ""},
		{"--cluster-name=c1 --preemption=enforce", `--preemption "enforce": must be Account or Enforce`},
		{"", "--cluster-name is required"},
		{"--cluster-name=c1 --decision-timeout=9s", "--decision-timeout 9s: must lie between"},
		{"--cluster-name=c1 --tracing-endpoint=otel:4317 --tracing-sampling-rate-per-million=1000000", ""},
		{"--cluster-name=c1 --tracing-sampling-rate-per-million=1000001", "--tracing-sampling-rate-per-million 1000001: must lie between"},
		{"--cluster-name=c1 --webhook-bind-address=x", "--webhook-bind-address"},
		{"--cluster-name=c1 --hubble-listen-address=:4244", "wants --hubble-tls-cert-file"},
		{"--cluster-name=c1 --hubble-listen-address=:4244 --hubble-tls-cert-file=c --hubble-tls-key-file=k", "wants --hubble-tls-cert-file"},
		{"--cluster-name=c1 --hubble-listen-address=:4244 --hubble-tls-cert-file=c --hubble-tls-key-file=k --hubble-tls-client-ca-files=ca", ""},
		{"--cluster-name=c1 --hubble-listen-address=:4244 --hubble-disable-tls", ""},
		{"--cluster-name=c1 --hubble-listen-address=:4244 --hubble-disable-tls --hubble-tls-cert-file=c", "a certificate is given as well"},
		{"--cluster-name=c1 --hubble-export-file-path=stdout", ""},
		{"--cluster-name=c1 --hubble-export-file-path=stdout --hubble-export-file-max-backups=0", "must be above 0"},
		{"--cluster-name=c1 --hubble-event-buffer-capacity=4096", "one less than a power of two"},
		{"--cluster-name=c1 --hubble-event-buffer-capacity=65535", "at most 32767"},
		{"--cluster-name=c1 --hubble-event-queue-size=0", "must be above 0"},
	} {
		o := defaults()
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		o.flags(flags)
		if err := flags.Parse(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		err := o.validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
	}
}
