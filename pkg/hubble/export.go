package hubble

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	ciliumexporter "github.com/cilium/cilium/pkg/hubble/exporter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshpdb/meshpdb/pkg/flow"
)

// ExportConfig says where to export flows to.
type ExportConfig struct {
	// Path of the file, or "stdout".
	Path string
	// MaxSizeMB is the size at which a file is put aside, in megabytes, and MaxBackups
	// how many of those are kept.
	MaxSizeMB, MaxBackups int
}

// OpenExport opens what Config.Export wants. A file that cannot be written is an error now rather than with the first decision.
func OpenExport(c ExportConfig) (io.WriteCloser, error) {
	if c.Path == "stdout" {
		return ciliumexporter.StdoutNoOpWriter()
	}
	f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open export: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open export: %w", err)
	}
	w, err := ciliumexporter.FileWriter(ciliumexporter.FileWriterConfig{Filename: c.Path, MaxSize: c.MaxSizeMB, MaxBackups: c.MaxBackups})()
	if err != nil {
		return nil, fmt.Errorf("open export: %w", err)
	}
	return w, nil
}

// maxBatch is the size at which lines are written, in bytes. A file is put aside between two writes.
const maxBatch = 64 << 10

// exporter writes lines as Cilium's own does (pkg/hubble/exporter), which would give losses the
// machine's name, and write nothing ever again after one failure. Lines are gathered until flush,
// or until they are many.
type exporter struct {
	out    io.WriteCloser
	node   string
	log    *slog.Logger
	buffer []byte
	lines  uint64 // in the buffer
	// cut: what was written last ends within a line.
	cut bool
	// failed since the last lines that could be written.
	failed uint64
	errors atomic.Uint64
}

func newExporter(out io.WriteCloser, node string, log *slog.Logger) *exporter {
	return &exporter{out: out, node: node, log: log}
}

func (e *exporter) decision(d *flow.Decision) {
	e.begin()
	e.buffer = d.AppendLine(e.buffer)
	e.end()
}

func (e *exporter) lost(at time.Time, l *flowpb.LostEvent) {
	line, err := json.Marshal(&observerpb.ExportEvent{
		Time: timestamppb.New(at), NodeName: e.node, ResponseTypes: &observerpb.ExportEvent_LostEvents{LostEvents: l},
	})
	if err != nil {
		e.fail(1, err)
		return
	}
	e.begin()
	e.buffer = append(append(e.buffer, line...), '\n')
	e.end()
}

// begin begins with an empty line, which readers skip, where half a line would spoil the next one.
func (e *exporter) begin() {
	if e.cut && e.lines == 0 {
		e.buffer = append(e.buffer, '\n')
	}
}

func (e *exporter) end() {
	if e.lines++; len(e.buffer) >= maxBatch {
		e.flush()
	}
}

// flush writes what has been gathered.
func (e *exporter) flush() {
	if e.lines == 0 {
		return
	}
	n, err := e.out.Write(e.buffer)
	if n > 0 {
		e.cut = e.buffer[n-1] != '\n'
	}
	left := uint64(bytes.Count(e.buffer[n:], []byte{'\n'}))
	if n == 0 {
		left = e.lines
	}
	e.buffer, e.lines = e.buffer[:0], 0
	if err != nil {
		e.fail(left, err)
		return
	}
	if e.failed > 0 {
		e.log.Info("decisions are exported again", "missing", e.failed)
		e.failed = 0
	}
}

// fail logs the first of failures that follow each other, and counts what is missing.
func (e *exporter) fail(lines uint64, err error) {
	if e.failed == 0 {
		e.log.Error("export decisions", "error", err)
	}
	e.failed += lines
	e.errors.Add(lines)
}

func (e *exporter) close() error {
	if e == nil {
		return nil
	}
	if err := e.out.Close(); err != nil {
		return fmt.Errorf("close export: %w", err)
	}
	return nil
}
