package hubble

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"
)

// lines is an export in memory.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	fail   error
	closed bool
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	return l.buffer.Write(p)
}

func (l *lines) Close() error {
	l.closed = true
	return nil
}

func (l *lines) all(t *testing.T) []*observerpb.GetFlowsResponse {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	return parse(t, l.buffer.Bytes())
}

// parse reads lines as hubble observe --input-file does.
func parse(t *testing.T, content []byte) []*observerpb.GetFlowsResponse {
	t.Helper()
	var all []*observerpb.GetFlowsResponse
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for scanner.Scan() {
		if scanner.Text() == "" {
			continue
		}
		var one observerpb.GetFlowsResponse
		if err := protojson.Unmarshal(scanner.Bytes(), &one); err != nil {
			t.Fatalf("%s: %v", scanner.Text(), err)
		}
		all = append(all, &one)
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestExport: everything published before the end is in the file, in Hubble's format, and the file is put aside as it grows.
func TestExport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.log")
	out, err := OpenExport(ExportConfig{Path: path, MaxSizeMB: 1, MaxBackups: 2})
	if err != nil {
		t.Fatal(err)
	}
	c := config()
	c.Export, c.Queue = out, 2000
	o := newObserver(t, c)
	for i := range 2000 {
		o.Publish(decision(fmt.Sprint(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Run(ctx); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Dir(path) + "/*")
	if err != nil || len(files) < 2 {
		t.Fatalf("files %q, %v", files, err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range parse(t, content) {
			//lint:ignore SA1019 it is what is printed
			if r.GetFlow().GetSummary() == "" || r.GetNodeName() != "c1/controller-0" {
				t.Fatalf("exported %v", r)
			}
			seen[r.GetFlow().GetUuid()] = true
		}
	}
	if len(seen) != 2000 {
		t.Errorf("%d decisions are in %q", len(seen), files)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: it names users and what they did", info.Mode(), err)
	}
}

// TestExportFails: decisions are shown although they cannot be exported, and what is missing is counted.
func TestExportFails(t *testing.T) {
	out := &lines{fail: errors.New("no space left")}
	c := config()
	c.Export = out
	o := newObserver(t, c)
	run(t, o)
	client := dial(t, o)
	o.Publish(decision("1"))
	o.Publish(decision("2"))
	awaitNewest(t, client, "2")
	for deadline := time.Now().Add(10 * time.Second); o.export.errors.Load() == 0 && time.Now().Before(deadline); {
		// It is about to be exported.
	}
	out.mu.Lock()
	out.fail = nil
	out.mu.Unlock()
	o.Publish(decision("3"))
	awaitNewest(t, client, "3")
	var last string
	for deadline := time.Now().Add(10 * time.Second); last != "3" && time.Now().Before(deadline); {
		if all := out.all(t); len(all) > 0 {
			last = all[len(all)-1].GetFlow().GetUuid()
		}
	}
	if got := o.export.errors.Load(); last != "3" || got == 0 || got > 2 {
		t.Errorf("%d errors were counted, exported last is %q", got, last)
	}
	if _, err := OpenExport(ExportConfig{Path: filepath.Join(t.TempDir(), "missing", "file")}); err == nil || !strings.Contains(err.Error(), "open export") {
		t.Errorf("a file that cannot be made: %v", err)
	}
}
