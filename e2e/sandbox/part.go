package sandbox

import (
	"context"
	"fmt"
	"slices"
	"syscall"
)

// Part is a process of a cluster that tests may kill, freeze and start again with the address and the files that it had.
type Part struct {
	cluster *Cluster
	command command
	flags   []string                    // of command, those of a Restart left out
	probe   func(context.Context) error // nil if nobody can tell whether it is ready
	process *process                    // guarded by cluster.mu
}

// launch starts a part for the first time and waits until it is ready, if there is a probe.
func (c *Cluster) launch(ctx context.Context, command command, probe func(context.Context) error) (*Part, error) {
	p := &Part{cluster: c, command: command, flags: command.args, probe: probe}
	return p, p.Start(ctx)
}

// Start runs a part that does not run, and waits until it is ready.
func (p *Part) Start(ctx context.Context) error {
	if p.Running() {
		return fmt.Errorf("start %s: runs already", p.command.name)
	}
	started, err := p.cluster.mesh.launcher.start(p.command)
	if err != nil {
		return err
	}
	p.cluster.mu.Lock()
	p.process = started
	p.cluster.mu.Unlock()
	if p.probe == nil {
		return nil
	}
	return started.awaitReady(ctx, p.probe)
}

// Restart kills a part and starts it with other arguments beside those that the sandbox sets, which they override.
func (p *Part) Restart(ctx context.Context, args ...string) error {
	p.Kill()
	p.command.args = slices.Concat(p.flags, args)
	return p.Start(ctx)
}

// Kill ends the part as a crash would. What it has on disk stays.
func (p *Part) Kill() {
	if running := p.current(); running != nil {
		running.kill()
	}
}

// Running tells whether the process runs, frozen or not.
func (p *Part) Running() bool { return p.current().running() }

// Freeze stops the part in its tracks: its connections stay open and nothing answers, until Thaw.
func (p *Part) Freeze() error { return p.current().signal(syscall.SIGSTOP) }

// Thaw lets a frozen part go on.
func (p *Part) Thaw() error { return p.current().signal(syscall.SIGCONT) }

func (p *Part) current() *process {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	return p.process
}

// signal sends a signal that is not meant to end the process.
func (p *process) signal(s syscall.Signal) error {
	if !p.running() {
		return fmt.Errorf("signal a process that does not run: %s", s)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}
