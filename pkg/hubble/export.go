package hubble

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	ciliumexporter "github.com/cilium/cilium/pkg/hubble/exporter"
	"google.golang.org/protobuf/types/known/timestamppb"
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

// exporter writes events as Cilium's own does (pkg/hubble/exporter), which would give losses the
// machine's name, and write nothing ever again after one failure. A nil one writes nothing.
type exporter struct {
	out     io.WriteCloser
	encoder *json.Encoder
	node    string
	log     *slog.Logger
	// failed since the last line that could be written.
	failed uint64
	errors atomic.Uint64
}

func newExporter(out io.WriteCloser, node string, log *slog.Logger) *exporter {
	return &exporter{out: out, encoder: json.NewEncoder(out), node: node, log: log}
}

func (e *exporter) flow(f *flowpb.Flow) {
	if e != nil {
		e.write(&observerpb.ExportEvent{Time: f.GetTime(), NodeName: e.node, ResponseTypes: &observerpb.ExportEvent_Flow{Flow: f}})
	}
}

func (e *exporter) lost(at *timestamppb.Timestamp, l *flowpb.LostEvent) {
	if e != nil {
		e.write(&observerpb.ExportEvent{Time: at, NodeName: e.node, ResponseTypes: &observerpb.ExportEvent_LostEvents{LostEvents: l}})
	}
}

// write logs the first of failures that follow each other, and how many they were.
func (e *exporter) write(event *observerpb.ExportEvent) {
	if err := e.encoder.Encode(event); err != nil {
		e.errors.Add(1)
		if e.failed++; e.failed == 1 {
			e.log.Error("export decisions", "error", err)
		}
		// An encoder repeats its first error for ever. What it has written of this line must not spoil the next.
		e.encoder = json.NewEncoder(&newLine{out: e.out})
		return
	}
	if e.failed > 0 {
		e.log.Info("decisions are exported again", "missing", e.failed)
		e.failed, e.encoder = 0, json.NewEncoder(e.out)
	}
}

// newLine begins with an empty line, which readers skip.
type newLine struct {
	out   io.Writer
	begun bool
}

func (n *newLine) Write(p []byte) (int, error) {
	if !n.begun {
		if _, err := n.out.Write([]byte("\n")); err != nil {
			return 0, err
		}
		n.begun = true
	}
	return n.out.Write(p)
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
