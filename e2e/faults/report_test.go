package faults

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// rows are what the tests have measured, in their order.
type rows struct {
	mu   sync.Mutex
	all  []string
	race string
}

// row takes a measured fault in: what people saw meanwhile, and how long grants
// took to flow again.
func row(t *testing.T, fault, meanwhile string, r recovery) {
	t.Helper()
	took := seconds(r.ready)
	if r.begun-r.ready > time.Second {
		took += fmt.Sprintf(" (%s with its start)", seconds(r.begun))
	}
	mesh.rows.mu.Lock()
	defer mesh.rows.mu.Unlock()
	mesh.rows.all = append(mesh.rows.all, fmt.Sprintf("| %s | %s | %s |", fault, cell(meanwhile), took))
}

// said quotes a sentence as it came.
func said(sentence string) string { return "“" + sentence + "”" }

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// write puts the rows between the marks of a Markdown file.
func (r *rows) write(path string) error {
	if path == "" {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	text := string(content)
	if len(r.all) > 0 {
		table := "| fault | what people see meanwhile | grants flow again after |\n|---|---|---|\n" + strings.Join(r.all, "\n")
		text, err = between(text, "faults", table)
	}
	if err == nil && r.race != "" {
		text, err = between(text, "race", r.race)
	}
	if err != nil {
		return fmt.Errorf("write report %s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// between replaces what stands between a begin mark and its end mark.
func between(text, mark, content string) (string, error) {
	begin, end := "<!-- "+mark+": measured -->\n", "\n<!-- "+mark+": end -->"
	before, rest, found := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return "", fmt.Errorf("no marks of %s", mark)
	}
	return before + begin + content + end + after, nil
}
