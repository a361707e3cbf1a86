package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/kubectl/pkg/util/term"
)

// The size of what is no terminal, or of one that does not tell.
const (
	defaultWidth  = 120
	defaultHeight = 24
)

// What a terminal is told to write text in.
const (
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// screen is where the demo writes: text from top to bottom and, on a terminal,
// a frame at the end of it that is drawn over the one before.
type screen struct {
	out      io.Writer
	terminal bool
	colour   bool
	size     func() (width, height int)
	drawn    int // lines of the frame above the cursor
}

func newScreen(out io.Writer) *screen {
	tty := term.TTY{Out: out}
	return &screen{out: out, terminal: tty.IsTerminalOut() && os.Getenv("TERM") != "dumb", colour: term.AllowsColorOutput(out), size: func() (int, int) {
		if size := tty.GetSize(); size != nil && size.Width > 0 && size.Height > 0 {
			return int(size.Width), int(size.Height)
		}
		return defaultWidth, defaultHeight
	}}
}

// Write makes a screen the Progress of a sandbox.
func (s *screen) Write(text []byte) (int, error) { return s.out.Write(text) }

func (s *screen) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *screen) lines(lines []string) {
	for _, l := range lines {
		s.say("%s", l)
	}
}

// paragraph says a long text.
func (s *screen) paragraph(text string) {
	width, _ := s.size()
	s.lines(wrap(text, width))
}

// title begins a part of the demo.
func (s *screen) title(format string, args ...any) {
	text := "=== " + fmt.Sprintf(format, args...) + " ==="
	s.say("\n%s\n", s.painted(bold, text))
}

// begin leaves what is drawn where it is: the next frame comes below.
func (s *screen) begin() {
	s.drawn = 0
	if s.terminal {
		s.say("")
	}
}

// draw shows a frame, in one write, so that it does not flicker.
func (s *screen) draw(f frame) {
	width, height := s.size()
	lines := f.lines(width)
	if !s.terminal {
		_, _ = io.WriteString(s.out, "\n"+text(lines))
		return
	}
	// The cursor cannot go back to what has scrolled away.
	lines = lines[:min(len(lines), max(1, height-1))]
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, l := range lines {
		text := l.text
		if l.alarming {
			text = s.painted(red, text)
		}
		b.WriteString("\r" + text + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = io.WriteString(s.out, b.String())
}

func (s *screen) painted(how, text string) string {
	if !s.colour {
		return text
	}
	return how + text + plain
}

// text is a frame without colours.
func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}
