package scenario

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// KubectlDrain is one run of the real kubectl drain, as a person starts it.
type KubectlDrain struct {
	// Kubectl makes a command of the real kubectl, an administrator's of the node's cluster.
	Kubectl func(ctx context.Context, args ...string) *exec.Cmd
	Node    string
	// Selector of the pods to evict; the others stay.
	Selector string
	// Timeout after which kubectl gives up.
	Timeout time.Duration
	// Line, if not nil, is told each line as it comes, one at a time.
	Line func(DrainLine)
}

// DrainLine is a line that kubectl wrote.
type DrainLine struct {
	// At is when it came.
	At time.Time
	// Stderr tells the two outputs apart.
	Stderr bool
	Text   string
}

// Run drains the node and returns what kubectl wrote, by time. The error is
// kubectl's: it gave up. The node stays cordoned, as after any drain.
func (d KubectlDrain) Run(ctx context.Context) ([]DrainLine, error) {
	cmd := d.Kubectl(ctx, "drain", d.Node, "--ignore-daemonsets", "--pod-selector="+d.Selector, "--timeout="+d.Timeout.String())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("drain %s: %w", d.Node, err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("drain %s: %w", d.Node, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("drain %s: %w", d.Node, err)
	}
	var mu sync.Mutex
	var lines []DrainLine
	var failures [2]error
	follow := func(r io.Reader, isStderr bool) error {
		scanner := bufio.NewScanner(r)
		for scanner.Scan() {
			line := DrainLine{At: time.Now(), Stderr: isStderr, Text: scanner.Text()}
			mu.Lock()
			lines = append(lines, line)
			if d.Line != nil {
				d.Line(line)
			}
			mu.Unlock()
		}
		return scanner.Err()
	}
	var outputs sync.WaitGroup
	outputs.Go(func() { failures[0] = follow(stdout, false) })
	outputs.Go(func() { failures[1] = follow(stderr, true) })
	// Before Wait, which closes the pipes.
	outputs.Wait()
	if err := errors.Join(cmd.Wait(), failures[0], failures[1]); err != nil {
		return lines, fmt.Errorf("drain %s: %w", d.Node, err)
	}
	return lines, nil
}
