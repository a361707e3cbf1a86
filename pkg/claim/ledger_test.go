package claim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// ledger reads "7: a=P1 b=G2/3": the ticket, then id=state and ticket, and the
// seq where it is not 0. The pod's UID is "pod-" and the id.
func ledger(text string) *Ledger {
	l := &Ledger{}
	head, rest, _ := strings.Cut(text, ":")
	fmt.Sscan(head, &l.Ticket)
	for _, word := range strings.Fields(rest) {
		c := Claim{State: Pending}
		id, value, _ := strings.Cut(word, "=")
		if value[0] == 'G' {
			c.State = Granted
		}
		c.ID, c.UID = id, "pod-"+id
		fmt.Sscanf(value[1:], "%d/%d", &c.Ticket, &c.Seq)
		l.Claims = append(l.Claims, c)
	}
	return l
}

func (l *Ledger) text() string {
	words := []string{fmt.Sprintf("%d:", l.Ticket)}
	for _, c := range l.Claims {
		word := fmt.Sprintf("%s=%.1s%d", c.ID, c.State, c.Ticket)
		if c.Seq > 0 {
			word += fmt.Sprintf("/%d", c.Seq)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// R6, R7, R9, R10: each move asks for the state that it is made from.
func TestLedgerMoves(t *testing.T) {
	for _, tt := range []struct {
		before string
		move   func(*Ledger) bool
		moved  bool
		after  string
	}{
		{"0:", func(l *Ledger) bool { return l.Grant("a") }, false, "0:"},
		{"2: a=P1 b=P2", func(l *Ledger) bool { return l.Grant("a") }, true, "2: a=G1 b=P2"},
		{"1: a=G1", func(l *Ledger) bool { return l.Grant("a") }, false, "1: a=G1"},
		{"1: a=P1", func(l *Ledger) bool { return l.Grant("pod-a") }, false, "1: a=P1"},
		{"2: a=P1 b=P2", func(l *Ledger) bool { return l.Withdraw("a") }, true, "2: b=P2"},
		{"1: a=G1", func(l *Ledger) bool { return l.Withdraw("a") }, false, "1: a=G1"},
		{"1:", func(l *Ledger) bool { return l.Withdraw("a") }, false, "1:"},
		{"2: a=G1/3 b=P2", func(l *Ledger) bool { return l.Release("a", 3) }, true, "2: b=P2"},
		// Asked again since: T starts anew (X19).
		{"1: a=G1/3", func(l *Ledger) bool { return l.Release("a", 2) }, false, "1: a=G1/3"},
		{"1: a=P1", func(l *Ledger) bool { return l.Release("a", 0) }, false, "1: a=P1"},
		{"1:", func(l *Ledger) bool { return l.Release("a", 0) }, false, "1:"},
		{"2: a=G1/3 b=P2", func(l *Ledger) bool { return l.Drop("a") }, true, "2: b=P2"},
		{"1: a=P1", func(l *Ledger) bool { return l.Drop("a") }, false, "1: a=P1"},
		{"1:", func(l *Ledger) bool { return l.Drop("a") }, false, "1:"},
	} {
		l := ledger(tt.before)
		if moved := tt.move(l); moved != tt.moved || l.text() != tt.after {
			t.Errorf("%q: got %v %q, want %v %q", tt.before, moved, l.text(), tt.moved, tt.after)
		}
	}
}

// R2, R8: a new claim, a repetition, or one that is being decided.
func TestLedgerAppend(t *testing.T) {
	for _, tt := range []struct {
		before, uid string
		seen, own   uint64
		asked       Asked
		stands      string
		after       string
	}{
		{"0:", "pod-x", 0, 0, Appended, "x=P1", "1: x=P1"},
		{"4: a=P4", "pod-x", 2, 0, Appended, "x=P5", "5: a=P4 x=P5"},
		{"4: a=P4", "pod-x", 9, 0, Appended, "x=P10", "10: a=P4 x=P10"},
		// The place of a pod that was refused before; nobody draws one from the future.
		{"4: a=P4", "pod-x", 9, 3, Appended, "x=P3", "9: a=P4 x=P3"},
		{"4: a=P4", "pod-x", 2, 5, Appended, "x=P5", "5: a=P4 x=P5"},
		{"4: a=P4", "pod-x", 2, 99, Appended, "x=P5", "5: a=P4 x=P5"},
		{"4: a=G3/1", "pod-a", 9, 1, Repeated, "a=G3/2", "4: a=G3/2"},
		{"4: a=P3", "pod-a", 9, 1, Undecided, "a=P3", "4: a=P3"},
	} {
		l := ledger(tt.before)
		// What the claimant put into state and seq does not matter.
		c, asked := l.Append(Claim{ID: "x", UID: tt.uid, State: Granted, Ticket: tt.own, Seq: 7}, tt.seen)
		stands := (&Ledger{Claims: []Claim{c}}).text()
		if asked != tt.asked || stands != "0: "+tt.stands || l.text() != tt.after {
			t.Errorf("%q, pod %s: got %d %q %q", tt.before, tt.uid, asked, stands, l.text())
		}
	}
}

func TestLedgerCloneSharesNothing(t *testing.T) {
	l := ledger("2: a=P1 b=P2")
	c := l.Clone()
	c.Grant("a")
	c.Withdraw("b")
	c.Append(Claim{ID: "x", UID: "x"}, 0)
	if l.text() != "2: a=P1 b=P2" {
		t.Errorf("the original became %q", l.text())
	}
}

func TestBeforeIsTotal(t *testing.T) {
	var sorted []Claim
	for _, ticket := range []uint64{0, 1, 2, 1 << 63} {
		for _, cluster := range []string{"", "c1", "c2"} {
			for _, id := range []string{"a", "b"} {
				sorted = append(sorted, Claim{Ticket: ticket, Cluster: cluster, ID: id})
			}
		}
	}
	for i, a := range sorted {
		for j, b := range sorted {
			// What changes during a claim's life must not change its priority.
			b.State, b.Seq, b.UID = Granted, 9, "other"
			if a.Before(b) != (i < j) {
				t.Errorf("%+v before %+v: got %v", a, b, a.Before(b))
			}
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	shuffled := slices.Clone(sorted)
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, func(a, b Claim) int {
		if a.Before(b) {
			return -1
		}
		return 1
	})
	if fmt.Sprint(shuffled) != fmt.Sprint(sorted) {
		t.Errorf("sorted to %v", shuffled)
	}
}

func TestStateNames(t *testing.T) {
	if got := fmt.Sprint(State(0), Pending, Granted, State(9)); got != "Invalid Pending Granted Invalid" {
		t.Error(got)
	}
	if got := fmt.Sprint(Step(0), AppendClaim, Answer, Step(99)); got != "Invalid AppendClaim Answer Invalid" {
		t.Error(got)
	}
}
