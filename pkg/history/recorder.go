package history

import (
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// Recorder takes events in as they come, from several goroutines. Make one with
// NewRecorder.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	w      io.Writer
	events []Event
	last   uint64
	err    error
}

// NewRecorder begins a history at start (zero for a clock of the run's own). If
// w is not nil, each event is also written to it at once, so that a run that is killed leaves its history.
func NewRecorder(start time.Time, w io.Writer) *Recorder {
	r := &Recorder{start: start, w: w}
	if w != nil {
		r.err = writeLine(w, header{Version: Version, Start: start})
	}
	return r
}

// Since is a moment as a history tells it, by the monotonic clock if t has it.
func (r *Recorder) Since(t time.Time) time.Duration { return t.Sub(r.start) }

// Record takes one event in. Questions and answers rather go through Ask.
func (r *Recorder) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record(e)
}

func (r *Recorder) record(e Event) {
	r.last = max(r.last, e.Request)
	if err := e.validate(); err != nil {
		r.err = errors.Join(r.err, err)
		return
	}
	r.events = append(r.events, e)
	if r.w == nil || r.err != nil {
		return
	}
	r.err = writeEvent(r.w, e)
}

// Ask takes a question in: an Event with budget, cluster, pod, caller and
// interval. The answer is told to the function that it returns, once; an answer that never comes
// counts as Unknown.
func (r *Recorder) Ask(e Event) (answer func(Interval, Answer)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	e.Kind, e.Request = Asked, r.last
	r.record(e)
	return func(at Interval, a Answer) {
		r.Record(Event{Interval: at, Kind: Answered, Request: e.Request, Answer: a})
	}
}

// History returns what was recorded until now. The error tells what could not be
// recorded or written: the history is then not to be trusted.
func (r *Recorder) History() (History, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{Start: r.start, Events: slices.Clone(r.events)}, r.err
}
