package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// readyTimeout is how long a component may take to become ready. On two busy cores kube-apiserver needs up to 20 s.
	readyTimeout = 2 * time.Minute
	// probeInterval is how often readiness is asked for.
	probeInterval = 50 * time.Millisecond
	// probeTimeout bounds one such question.
	probeTimeout = 3 * time.Second
	// stopGrace is how long a process that was asked to stop may take before it is killed.
	stopGrace = 5 * time.Second
)

// command is a program to run.
type command struct {
	name string // of the component, for errors and the log file
	path string
	args []string
	env  []string // beyond the environment of this process
	dir  string   // working directory, made if missing
	log  string   // file to which both outputs are appended
}

// launcher starts child processes that end with this process, whatever ends it.
//
// The kernel sends a child its parent-death signal when the THREAD that made it ends, and the Go runtime ends
// threads when it likes. So one goroutine, locked to its thread until close, starts them all.
type launcher struct {
	requests chan launchRequest
	quit     chan struct{}
	finished chan struct{}
	closing  sync.Once

	mu    sync.Mutex
	procs []*process
}

type launchRequest struct {
	cmd   *exec.Cmd
	reply chan<- error
}

func newLauncher() *launcher {
	l := &launcher{
		requests: make(chan launchRequest), quit: make(chan struct{}), finished: make(chan struct{}),
	}
	go l.run()
	return l
}

func (l *launcher) run() {
	defer close(l.finished)
	// Never unlocked: the thread ends with the goroutine, and its end kills a child that close might have missed.
	runtime.LockOSThread()
	for {
		select {
		case r := <-l.requests:
			r.reply <- r.cmd.Start()
		case <-l.quit:
			return
		}
	}
}

// close kills what still runs, waits for its end and ends the launcher. Nothing can be started afterwards.
func (l *launcher) close() {
	l.closing.Do(func() {
		l.mu.Lock()
		procs := l.procs
		l.mu.Unlock()
		for _, p := range procs {
			p.signalEnd(syscall.SIGKILL)
		}
		for _, p := range procs {
			<-p.done
		}
		close(l.quit)
		<-l.finished
	})
}

// failures are the processes that ended without being asked to.
func (l *launcher) failures() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, p := range l.procs {
		select {
		case <-p.done:
			if !p.asked() {
				errs = append(errs, p.exitError())
			}
		default:
		}
	}
	return errors.Join(errs...)
}

// start runs c.
func (l *launcher) start(c command) (*process, error) {
	if err := errors.Join(os.MkdirAll(c.dir, 0o755), os.MkdirAll(filepath.Dir(c.log), 0o755)); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer log.Close() // the child holds its own descriptor
	cmd := exec.Command(c.path, c.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.Env = append(childEnvironment(os.Environ()), c.env...)
	// A process group of its own keeps a terminal's Ctrl-C from the children: this process ends them in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	reply := make(chan error, 1)
	select {
	case l.requests <- launchRequest{cmd: cmd, reply: reply}:
	case <-l.finished:
		return nil, fmt.Errorf("start %s: the sandbox is stopped", c.name)
	}
	if err := <-reply; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	p := &process{command: c, cmd: cmd, done: make(chan struct{})}
	go p.wait()
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// childEnvironment is env without what would lead a child away from its own clusters.
func childEnvironment(env []string) []string {
	var kept []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		switch name = strings.ToUpper(name); {
		case name == "KUBECONFIG", strings.HasSuffix(name, "_PROXY"), strings.HasPrefix(name, "KUBERNETES_"),
			strings.HasPrefix(name, "ETCD_"), strings.HasPrefix(name, "CILIUM_"):
		default:
			kept = append(kept, e)
		}
	}
	return kept
}

// process is a child process. Its wait goroutine lives exactly as long as the child.
type process struct {
	command
	cmd  *exec.Cmd
	done chan struct{} // closed once the child was waited for

	mu       sync.Mutex
	expected bool
}

func (p *process) wait() {
	_ = p.cmd.Wait() // exitError reads the state
	close(p.done)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) asked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected
}

// signalEnd sends a signal that is meant to end the process, so that its end is no failure.
func (p *process) signalEnd(s syscall.Signal) {
	select {
	case <-p.done:
		return // and if it had ended by itself, it stays a failure
	default:
	}
	p.expect()
	_ = p.cmd.Process.Signal(s) // fails only if it has ended meanwhile
}

func (p *process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = true
}

// kill ends the process as a crash would.
func (p *process) kill() {
	p.signalEnd(syscall.SIGKILL)
	<-p.done
}

// stop asks the process to end, and kills it if it does not within stopGrace or until ctx ends.
func (p *process) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	p.signalEnd(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
	}
}

// awaitReady asks probe until it returns nil. A process that ends meanwhile is reported at once, and by that no longer
// one of the launcher's failures: the caller may know better, for instance another port.
func (p *process) awaitReady(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, p.done, func(ctx context.Context) error {
		select {
		case <-p.done:
			p.expect()
			return stopPolling{p.exitError()}
		default:
		}
		if err := probe(ctx); err != nil {
			return fmt.Errorf("await %s: %w", p.name, err)
		}
		return nil
	})
}

func (p *process) exitError() error {
	return fmt.Errorf("run %s: %s; last lines of %s:\n%s", p.name, p.cmd.ProcessState, p.log, tail(p.log, 15))
}

// stopPolling wraps an error that asking again cannot change.
type stopPolling struct{ error }

// poll asks ask until it returns nil or stopPolling, and at once when wake is closed. When ctx ends it returns the last
// answer that was not caused by just that.
func poll(ctx context.Context, wake <-chan struct{}, ask func(context.Context) error) error {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	var last error
	for {
		askCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := ask(askCtx)
		cancel()
		var final stopPolling
		if err == nil {
			return nil
		} else if errors.As(err, &final) {
			return final.error
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-wake:
			wake = nil
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		}
	}
}

// tail is the end of a log file, for an error text.
func tail(path string, lines int) string {
	const most = 16 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// running tells whether p was started and has not ended.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
