package live

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/stats"
)

// Answers are the times from the request to the answer in the webhook's
// handler, as the controllers logged them.
type Answers struct {
	// Grants are permissions.
	Grants stats.Distribution
	// Cached are refusals from the cached view alone, Decided those that a claim
	// was made for.
	Cached, Decided stats.Distribution
}

// account is what the controllers say about one namespace from open to close.
type account struct {
	mesh      *mesh
	namespace string
	offsets   map[string]int64 // of the logs
	before    scrape
}

func (m *mesh) open(ctx context.Context, namespace string) (*account, error) {
	a := &account{mesh: m, namespace: namespace, offsets: map[string]int64{}}
	for _, c := range m.controllers() {
		info, err := os.Stat(c.Log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("find the end of a log: %w", err)
		}
		if err == nil {
			a.offsets[c.Log] = info.Size()
		}
	}
	var err error
	a.before, err = m.scrape(ctx)
	return a, err
}

func (a *account) close(ctx context.Context) (Answers, Steps, error) {
	after, err := a.mesh.scrape(ctx)
	if err != nil {
		return Answers{}, Steps{}, err
	}
	var r reading
	for _, c := range a.mesh.controllers() {
		if err := r.file(c.Log, a.offsets[c.Log], a.namespace); err != nil {
			return Answers{}, Steps{}, fmt.Errorf("read the log of %s: %w", c.Name, err)
		}
	}
	return r.answers(), stepsBetween(a.before, after), nil
}

// reading gathers answers from logs.
type reading struct{ grants, cached, decided []time.Duration }

func (r *reading) answers() Answers {
	return Answers{Grants: stats.Of(r.grants), Cached: stats.Of(r.cached), Decided: stats.Of(r.decided)}
}

func (r *reading) file(path string, offset int64, namespace string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	return r.lines(f, namespace)
}

// line is what the log says of an answer.
type line struct {
	Message string `json:"msg"`
	Pod     string `json:"pod"`
	Path    string `json:"path"`
	Took    string `json:"took"`
	DryRun  bool   `json:"dryRun"`
	Cached  bool   `json:"cached"`
}

// lines takes in the answers to evictions of pods in a namespace.
func (r *reading) lines(log io.Reader, namespace string) error {
	scanner := bufio.NewScanner(log)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var l line
		// What is not JSON is a client library's or the runtime's.
		if !bytes.HasPrefix(scanner.Bytes(), []byte("{")) || json.Unmarshal(scanner.Bytes(), &l) != nil {
			continue
		}
		if l.Path != "eviction" || l.DryRun || !strings.HasPrefix(l.Pod, namespace+"/") {
			continue
		}
		took, err := time.ParseDuration(l.Took)
		if err != nil {
			return fmt.Errorf("parse answer on %s: %w", l.Pod, err)
		}
		switch {
		case l.Message == "DisruptionAllowed":
			r.grants = append(r.grants, took)
		case l.Message == "DisruptionRefused" && l.Cached:
			r.cached = append(r.cached, took)
		case l.Message == "DisruptionRefused":
			r.decided = append(r.decided, took)
		}
	}
	return scanner.Err()
}
