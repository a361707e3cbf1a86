package live

import "testing"

func TestProcessor(t *testing.T) {
	read := func(text string) processor {
		p, err := parseProcessor(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := read("cpu  100 10 50 1000 40 0 5 5 70 0\ncpu0 1 2 3\n")
	after := read("cpu  160 10 70 1010 50 0 5 5 90 0\n")
	if got := after.since(before); got != 0.8 {
		t.Errorf("got %g, want 0.8", got)
	}
	if got := after.since(after); got != 0 {
		t.Errorf("within no time: %g", got)
	}
	for _, text := range []string{"", "intr 1 2 3", "cpu 1 2 3", "cpu a b c d e f g h"} {
		if p, err := parseProcessor(text); err == nil {
			t.Errorf("%q: got %+v", text, p)
		}
	}
}
