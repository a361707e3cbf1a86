package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentVariable makes the test binary the parent of one sleeping child, to be killed by TestChildDiesWithParent.
const parentVariable = "SANDBOX_TEST_PARENT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		os.Exit(beParent(dir))
	}
	os.Exit(m.Run())
}

func beParent(dir string) int {
	p, err := newLauncher().start(sleeper(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(p.pid())
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed, or the test is gone
	return 0
}

func sleeper(dir string) command { return shell(dir, "exec sleep 1000") }

func shell(dir, script string) command {
	return command{name: "shell", path: "/bin/sh", args: []string{"-c", script}, dir: dir, log: filepath.Join(dir, "log")}
}

func TestChildDiesWithParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+t.TempDir())
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatalf("child %d does not run", pid)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, 10*time.Second, func(context.Context) error {
		if alive(pid) {
			return fmt.Errorf("child %d still runs", pid)
		}
		return nil
	})
}

func TestProcessThatEndsIsReportedAtOnce(t *testing.T) {
	l := newLauncher()
	defer l.close()
	p, err := l.start(shell(t.TempDir(), "echo no such flag >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	err = p.awaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(started); took > readyTimeout/4 {
		t.Errorf("reported after %s", took)
	}
	if err := l.failures(); err != nil {
		t.Errorf("reported again: %v", err)
	}
}

func TestProcessThatEndsUnasked(t *testing.T) {
	l := newLauncher()
	p, err := l.start(shell(t.TempDir(), "echo out of memory; exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	l.close()
	if err := l.failures(); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("failures are %v", err)
	}
	if _, err := l.start(sleeper(t.TempDir())); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("start after close: %v", err)
	}
}

func TestProcessStop(t *testing.T) {
	l := newLauncher()
	defer l.close()
	p, err := l.start(sleeper(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if !p.running() {
		t.Error("does not run")
	}
	p.stop(t.Context())
	if p.running() || alive(p.pid()) {
		t.Error("runs after stop")
	}
	if err := l.failures(); err != nil {
		t.Errorf("an end that was asked for is listed as a failure: %v", err)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 2); got != "two\nthree" {
		t.Errorf("tail is %q", got)
	}
	if got := tail(path, 9); got != "one\ntwo\nthree" {
		t.Errorf("tail is %q", got)
	}
}

// alive tells whether a process exists and is no zombie.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// eventually asks until the answer is nil.
func eventually(t *testing.T, within time.Duration, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := poll(ctx, nil, ask); err != nil {
		t.Fatal(err)
	}
}
