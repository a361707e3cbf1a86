package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// Version of the format. STABLE: a reader refuses every other one.
	Version = 1
	// maxLine is the largest line in bytes that is written or read. An event is a few
	// hundred bytes.
	maxLine = 16 << 10
)

// ErrTruncated tells that the last line is not complete: the recorder was killed.
// What came before is intact.
var ErrTruncated = errors.New("last line is not complete")

// header is the first line.
type header struct {
	Version int       `json:"meshpdbHistory"`
	Start   time.Time `json:"start"`
}

// Write writes a history as JSON lines: a header, then one event a line.
func Write(w io.Writer, h History) error {
	buffered := bufio.NewWriter(w)
	if err := writeLine(buffered, header{Version: Version, Start: h.Start}); err != nil {
		return err
	}
	for _, e := range h.Events {
		if err := writeEvent(buffered, e); err != nil {
			return err
		}
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

func writeEvent(w io.Writer, e Event) error {
	if err := e.validate(); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return writeLine(w, e)
}

func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if len(line) >= maxLine {
		return fmt.Errorf("write history: line of %d bytes, at most %d", len(line)+1, maxLine)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

// Read reads what Write or a Recorder wrote. Errors name the line. With
// ErrTruncated the history is what stood before the last line.
func Read(r io.Reader) (History, error) {
	lines := bufio.NewReaderSize(r, maxLine)
	first, err := readLine(lines)
	if err != nil {
		return History{}, fmt.Errorf("read history: line 1: %w", err)
	}
	var head header
	if err := unmarshal(first, &head); err != nil {
		return History{}, fmt.Errorf("read history: line 1: %w", err)
	}
	if head.Version != Version {
		return History{}, fmt.Errorf("read history: line 1: version %d, this reads %d", head.Version, Version)
	}
	h := History{Start: head.Start}
	for number := 2; ; number++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return h, nil
		}
		var e Event
		if err == nil {
			err = unmarshal(line, &e)
		}
		if err == nil {
			err = e.validate()
		}
		if err != nil {
			return h, fmt.Errorf("read history: line %d: %w", number, err)
		}
		h.Events = append(h.Events, e)
	}
}

// readLine returns io.EOF at the end of the last whole line.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("longer than %d bytes", maxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, ErrTruncated
	}
	return line, err
}

func unmarshal(line []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	// What this version does not know could change the meaning of what it knows.
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
