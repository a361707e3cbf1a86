package claim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

// R1: the steps come in this order, and any doubt begins anew.
func TestRestoreOrder(t *testing.T) {
	r := NewRestore("life-1")
	for _, want := range []RestoreStep{PutIncarnation, Register, ListDurable, WriteRecords, PutMarker, Serving, Serving} {
		if r.Next() != want || r.Incarnation() != "life-1" {
			t.Fatalf("got step %d of %s, want %d", r.Next(), r.Incarnation(), want)
		}
		r.Done()
	}
	for done := range 7 {
		r := NewRestore("life-1")
		for range done {
			r.Done()
		}
		if r.Doubt("life-2"); r.Next() != PutIncarnation || r.Incarnation() != "life-2" {
			t.Errorf("doubt after %d steps: step %d of %s", done, r.Next(), r.Incarnation())
		}
	}
}

// TestTombstones tells words in turn: "end a", "reg a i1,i2", "show a i1", "forget a".
// R9 says when a claim may be dropped.
func TestTombstones(t *testing.T) {
	for _, tt := range []struct{ told, want string }{
		{"", ""},
		{"end a", ""},
		{"end a; reg a i1,i2", ""},
		{"end a; reg a i1,i2; show a i1", ""},
		{"end a; reg a i1,i2; show a i1; show a i2", "a"},
		{"end a; show a i1; show a i2; reg a i1,i2", "a"},
		// Told before the end was confirmed: proves nothing.
		{"reg a i1; show a i1; end a", ""},
		{"show a i1; end a; reg a i1", ""},
		// The registry is read again: who left need not show it, who came must.
		{"end a; reg a i1,i2; show a i1; reg a i1", "a"},
		{"end a; reg a i1; show a i1; reg a i1,i2", ""},
		// No instance registered: nobody has shown anything.
		{"end a; reg a ", ""},
		// Confirmed twice: what was shown counts.
		{"end a; reg a i1; show a i1; end a", "a"},
		{"end b; end a; reg a i1; reg b i1; show a i1; show b i1", "a b"},
		{"end b; end a; reg a i1; reg b i1; show a i1; show b i1; forget a", "b"},
		{"end a; reg a i1; show a i1; forget a; end a", ""},
		{"forget a", ""},
	} {
		s := NewTombstones()
		for _, sentence := range strings.Split(tt.told, "; ") {
			w := strings.Split(sentence+"  ", " ")
			switch w[0] {
			case "end":
				s.Ended(w[1])
			case "reg":
				s.Registered(w[1], strings.FieldsFunc(w[2], func(r rune) bool { return r == ',' }))
			case "show":
				s.Shown(w[1], w[2])
			case "forget":
				s.Forget(w[1])
			}
		}
		if got := strings.Join(s.Droppable(), " "); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.told, got, tt.want)
		}
	}
}

// TestReaper observes a ledger at some seconds; pending claims time out after
// 10 s, granted ones after 100 s.
// R7 is about the first, R10 about the second.
func TestReaper(t *testing.T) {
	for _, tt := range []struct{ observed, want string }{
		{"0 a=P1", ""},
		{"0 a=P1; 9 a=P1", ""},
		{"0 a=P1; 10 a=P1", "withdraw a"},
		{"0 a=P1; 9 a=G1; 108 a=G1", ""},
		{"0 a=P1; 9 a=G1; 109 a=G1", "release a"},
		{"0 a=G1; 99 a=G1/1; 198 a=G1/1", ""},
		{"0 a=G1; 99 a=G1/1; 199 a=G1/1", "release a"},
		// The first sight starts the clock, however old the claim is.
		{"500 a=G1", ""},
		// Gone and back is a first sight.
		{"0 a=P1; 5 b=P1; 12 a=P1 b=P1", ""},
		{"0 a=P1 b=G1 c=P2; 100 a=P1 b=G1 c=P2", "withdraw a withdraw c release b"},
		// It goes on saying so until it has happened.
		{"0 a=P1; 10 a=P1; 11 a=P1", "withdraw a"},
	} {
		r := NewReaper(10*time.Second, 100*time.Second)
		var said []string
		for _, sight := range strings.Split(tt.observed, "; ") {
			at, claims, _ := strings.Cut(sight, " ")
			seconds, err := time.ParseDuration(at + "s")
			if err != nil {
				t.Fatal(err)
			}
			withdraw, release := r.Observe(ledger("0: "+claims).Claims, time.Unix(0, 0).Add(seconds))
			said = nil
			for _, c := range withdraw {
				said = append(said, "withdraw "+c.ID)
			}
			for _, c := range release {
				said = append(said, "release "+c.ID)
			}
		}
		if got := strings.Join(said, " "); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.observed, got, tt.want)
		}
	}
}

// R11: by claim ID, and what the ledger lacks goes.
func TestCompare(t *testing.T) {
	for _, tt := range []struct{ stored, durable, remove, write string }{
		{"", "", "[]", "0:"},
		{"a=P1 b=G2", "a=P1 b=G2", "[]", "0:"},
		{"a=P1", "", "[a]", "0:"},
		{"", "a=P1", "[]", "0: a=P1"},
		{"a=P1", "a=G1", "[]", "0: a=G1"},
		{"a=P1 b=P1 c=P1", "b=G1 d=P4", "[a c]", "0: b=G1 d=P4"},
		{"a=G1", "a=G1/4", "[]", "0:"},
	} {
		remove, write := Compare(ledger("0: "+tt.stored).Claims, ledger("0: "+tt.durable).Claims)
		if got := (&Ledger{Claims: write}).text(); fmt.Sprint(remove) != tt.remove || got != tt.write {
			t.Errorf("%q against %q: remove %v, write %q", tt.stored, tt.durable, remove, got)
		}
	}
	// The same pod claimed anew: only the old claim goes (X17).
	remove, write := Compare([]Claim{{ID: "a", UID: "p", State: Granted}}, []Claim{{ID: "b", UID: "p", State: Pending}})
	if fmt.Sprint(remove) != "[a]" || len(write) != 1 || write[0].ID != "b" {
		t.Errorf("remove %v, write %v", remove, write)
	}
}

func TestStandingAndMaxTicket(t *testing.T) {
	for _, tt := range []struct {
		snapshots []string
		want      string
		ticket    uint64
	}{
		{nil, "map[]", 0},
		{[]string{"a=P3", "b=G1"}, fmt.Sprint(map[string]budget.Claim{"pod-a": budget.PendingHigher, "pod-b": budget.Granted}), 3},
		// Two claims on one pod: the granted one speaks, in either order.
		{[]string{"a=P3 a=G1"}, fmt.Sprint(map[string]budget.Claim{"pod-a": budget.Granted}), 3},
		{[]string{"a=G1", "a=P7"}, fmt.Sprint(map[string]budget.Claim{"pod-a": budget.Granted}), 7},
	} {
		var snapshots []Snapshot
		for _, s := range tt.snapshots {
			snapshots = append(snapshots, Snapshot{Claims: ledger("0: " + s).Claims})
		}
		if got := fmt.Sprint(Standing(snapshots)); got != tt.want || MaxTicket(snapshots) != tt.ticket {
			t.Errorf("%q: got %s, ticket %d", tt.snapshots, got, MaxTicket(snapshots))
		}
	}
}
