package claim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/pkg/budget"
)

var noon = time.Unix(43200, 0)

// begin starts an attempt of claim "me" (ticket 5, pod c1-0) in clusters c1
// and c2 that waits until 30 s after noon and is patient for 10 s.
func begin(budgets ...string) *Attempt {
	if len(budgets) == 0 {
		budgets = []string{"n/b"}
	}
	r := Request{Claim: Claim{ID: "me", UID: "c1-0", Pod: "db-0", Cluster: "c1"}, Deadline: noon.Add(30 * time.Second), Patience: noon.Add(10 * time.Second)}
	for _, b := range budgets {
		r.Budgets = append(r.Budgets, Covering{Name: b, Clusters: []string{"c1", "c2"}})
	}
	return Begin(r)
}

// shown reads "c1 ++- a=G1@c1-2": the cluster, its pods c1-0 and so on, and its
// claims with the pods they name. "c2 !reason" is invalid; "c2 ++?" shows another view, and
// "a=G1@c1-2?" was claimed under another one.
func shown(text string, names ...string) Snapshot {
	words := strings.Fields(text)
	s := Snapshot{Cluster: words[0], Budgets: map[string]Report{}}
	if reason, ok := strings.CutPrefix(words[1], "!"); ok {
		s.Invalid = reason
		return s
	}
	r := Report{View: []string{"c1", "c2"}, Bounds: []budget.Bound{{Kind: budget.MaxUnavailable, Value: 1}}}
	for i, letter := range words[1] {
		if letter == '?' {
			r.View = []string{"c2"}
			continue
		}
		r.Expected++
		r.Pods = append(r.Pods, Pod{UID: fmt.Sprintf("%s-%d", s.Cluster, i), Available: letter == '+'})
	}
	for _, w := range words[2:] {
		claim, uid, _ := strings.Cut(w, "@")
		c := ledger("0: " + claim).Claims[0]
		uid, other := strings.CutSuffix(uid, "?")
		c.UID, c.Cluster, c.Budgets, c.Views = uid, s.Cluster, []string{"n/b"}, []string{ViewID([]string{"c2", "c1"})}
		if other {
			c.Views = []string{ViewID([]string{"c2"})}
		}
		s.Claims = append(s.Claims, c)
	}
	for _, n := range append(names, "n/b") {
		s.Budgets[n] = r
	}
	return s
}

// tell plays one word of a story to the attempt.
func tell(t *testing.T, a *Attempt, word string) {
	t.Helper()
	what, rest, _ := strings.Cut(word, " ")
	list := strings.FieldsFunc(rest, func(r rune) bool { return r == ',' })
	mine := a.Claim()
	mine.State, mine.Ticket = Pending, 5
	lost := errors.New("lost")
	switch what {
	case "appended":
		a.Appended(mine, Appended, nil)
	case "repeated":
		mine.ID, mine.State, mine.Seq = "older", Granted, 1
		a.Appended(mine, Repeated, nil)
	case "undecided":
		mine.ID = "other"
		a.Appended(mine, Undecided, nil)
	case "append-lost":
		a.Appended(Claim{}, 0, lost)
	case "registry":
		a.Registered(list, nil)
	case "registry-lost":
		a.Registered(nil, lost)
	case "written":
		a.Written(list)
	case "changed":
		a.Changed()
	case "granted":
		a.Granted(rest == "ok")
	case "withdrawn":
		a.Withdrawn()
	case "expired":
		a.Expired()
	default: // "0s c1 ++- | c2 +++": a round of reads so long after noon
		after, err := time.ParseDuration(what)
		if err != nil {
			t.Fatal(err)
		}
		var snapshots []Snapshot
		for _, s := range strings.Split(rest, " | ") {
			snapshots = append(snapshots, shown(s))
		}
		a.Read(snapshots, noon.Add(after))
	}
}

// A claim tells by which clusters it is decided, budget by budget. One that
// does not is taken to be decided by others.
func TestClaimsTellTheirViews(t *testing.T) {
	r := Request{Claim: Claim{ID: "me"}, Budgets: []Covering{{Name: "n/b", Clusters: []string{"c2", "c1"}}, {Name: "n/d", Clusters: []string{"c1"}}}}
	c := Begin(r).Claim()
	if !slices.Equal(c.Budgets, []string{"n/b", "n/d"}) || len(c.Views) != 2 || c.Views[0] == c.Views[1] || len(c.Views[0]) != 16 {
		t.Fatalf("claims %v under %v", c.Budgets, c.Views)
	}
	for _, tt := range []struct {
		claim    Claim
		name     string
		clusters []string
		want     bool
	}{
		{c, "n/b", []string{"c1", "c2"}, true},
		{c, "n/b", []string{"c1", "c2", "c2"}, true},
		{c, "n/b", []string{"c1"}, false},
		{c, "n/b", []string{"c1", "c2", "c3"}, false},
		{c, "n/b", []string{"c1c2"}, false},
		{c, "n/d", []string{"c1"}, true},
		{c, "n/d", []string{"c1", "c2"}, false},
		{c, "n/other", []string{"c1"}, false},
		{Claim{Budgets: c.Budgets}, "n/b", []string{"c1", "c2"}, false},
		{Claim{Budgets: c.Budgets, Views: c.Views[:1]}, "n/d", []string{"c1"}, false},
	} {
		if got := tt.claim.reads(Covering{Name: tt.name, Clusters: tt.clusters}); got != tt.want {
			t.Errorf("%v under %v for %s of %v: %t", tt.claim.Budgets, tt.claim.Views, tt.name, tt.clusters, got)
		}
	}
}

const ready = "appended; registry i1; written i1; "

// TestAttemptOrder tells stories; want is the step that follows each word and,
// at the end, how it came out.
func TestAttemptOrder(t *testing.T) {
	for _, tt := range []struct{ story, want string }{
		{"appended; registry i1,i2; written i1,i2; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadClusters GrantClaim Answer: allowed, evicting db-0 leaves 5 of"},
		{"repeated", "Answer: allowed repeated, the disruption of db-0 has been allowed before"},
		{"undecided", "Answer: undecidable, another request to disrupt db-0 is being decided"},
		{"append-lost; withdrawn", "WithdrawClaim Answer: undecidable, the claim on db-0 could not be made durable: lost"},
		{"appended; registry-lost; withdrawn", "ReadRegistry WithdrawClaim Answer: undecidable, the instances of the own kvstore could not be read: lost"},
		{"appended; registry ; withdrawn", "ReadRegistry WithdrawClaim Answer: undecidable, no instance of the own kvstore is in service yet"},
		// An instance that cannot be written and is still registered may be read by somebody (R2, H07).
		{"appended; registry i1,i2; written i1; registry i1,i2; withdrawn", "ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, the claim could not be written to instance i2"},
		{"appended; registry i1,i2; written i1; registry-lost; withdrawn", "ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, the instances of the own kvstore could not be read"},
		{"appended; registry i1,i2; written ; registry i1,i2; withdrawn", "ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, the claim could not be written to instance i2"},
		// One that has left nobody reads.
		{"appended; registry i1,i2; written i1; registry i1; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadRegistry ReadClusters GrantClaim Answer: allowed, evicting"},
		{"appended; registry i1; written ; registry ; withdrawn", "ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, no instance"},
		// One that came meanwhile is written as well.
		{"appended; registry i1,i2; written i1; registry i1,i3; written i3; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadRegistry WriteInstances ReadClusters GrantClaim Answer: allowed, evicting"},
		{"appended; registry i1,i2; written i1; registry i1,i3; written ; registry i1,i3; withdrawn", "ReadRegistry WriteInstances ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, the claim could not be written to instance i3"},
		// Written beside the registry's read: what has it already is not written again, what the registry adds is.
		{"appended; written i1,i2; registry i1,i2; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry ReadRegistry ReadClusters GrantClaim Answer: allowed, evicting"},
		{"appended; written i1,i9; registry i1,i2; written i2; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry ReadRegistry WriteInstances ReadClusters GrantClaim Answer: allowed, evicting"},
		{"appended; written ; registry i1; written ; registry i1; withdrawn", "ReadRegistry ReadRegistry WriteInstances ReadRegistry WithdrawClaim Answer: undecidable, the claim could not be written to instance i1"},
		{"appended; registry i1; written ; written i1; registry i1; 0s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadRegistry ReadRegistry ReadClusters GrantClaim Answer: allowed, evicting"},
		// The grant: anything but an acknowledgement is a no (R6).
		{ready + "0s c1 +++ | c2 +++; granted unknown", "ReadRegistry WriteInstances ReadClusters GrantClaim Answer: undecidable, the grant for db-0 could not be made durable"},
		{ready + "0s c1 +++ | c2 ++-; withdrawn", "ReadRegistry WriteInstances ReadClusters WithdrawClaim Answer: denied, evicting db-0 would leave 4 of"},
		// Waiting, until the deadline.
		{ready + "0s c1 +++ | c2 +++ b=P9@c2-0; changed; 1s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadClusters AwaitChange ReadClusters GrantClaim Answer: allowed, evicting"},
		{ready + "29s c1 +++ | c2 +++ b=P9@c2-0; changed; 30s c1 +++ | c2 +++ b=P9@c2-0; withdrawn", "ReadRegistry WriteInstances ReadClusters AwaitChange ReadClusters WithdrawClaim Answer: denied, evicting"},
		// Patience with a cluster that cannot be read, or disagrees.
		{ready + "9s c1 +++ | c2 !gone; changed; 9s c1 +++ | c2 +++; granted ok", "ReadRegistry WriteInstances ReadClusters AwaitChange ReadClusters GrantClaim Answer: allowed, evicting"},
		{ready + "10s c1 +++ | c2 !gone; withdrawn", "ReadRegistry WriteInstances ReadClusters WithdrawClaim Answer: undecidable, budget n/b with maxUnavailable 1 cannot be decided without cluster c2 (gone)"},
		{ready + "9s c1 +++ | c2 +++?; changed; 10s c1 +++ | c2 +++?; withdrawn", "ReadRegistry WriteInstances ReadClusters AwaitChange ReadClusters WithdrawClaim Answer: undecidable, budget n/b with maxUnavailable 1 cannot be decided while its clusters disagree"},
		{ready + "10s c1 +++; withdrawn", "ReadRegistry WriteInstances ReadClusters WithdrawClaim Answer: undecidable, budget n/b with maxUnavailable 1 cannot be decided without cluster c2 (never read)"},
		// The time is over, at every step.
		{"expired; withdrawn", "WithdrawClaim Answer: undecidable, the claim on db-0 could not be made durable in time"},
		{"appended; expired; withdrawn", "ReadRegistry WithdrawClaim Answer: undecidable, the disruption of db-0 could not be decided in time"},
		{"appended; registry i1; expired; withdrawn", "ReadRegistry WriteInstances WithdrawClaim Answer: undecidable, the disruption of db-0 could not be decided in time"},
		{ready + "expired; withdrawn", "ReadRegistry WriteInstances ReadClusters WithdrawClaim Answer: undecidable, the disruption of db-0 could not be decided in time"},
		{ready + "0s c1 +++ | c2 +++ b=P9@c2-0; expired; withdrawn", "ReadRegistry WriteInstances ReadClusters AwaitChange WithdrawClaim Answer: denied, evicting db-0 would leave"},
		{ready + "0s c1 +++ | c2 +++; expired; withdrawn", "ReadRegistry WriteInstances ReadClusters GrantClaim WithdrawClaim Answer: undecidable, the grant for db-0 could not be made durable in time"},
		{ready + "0s c1 +++ | c2 ++-; expired; withdrawn", "ReadRegistry WriteInstances ReadClusters WithdrawClaim WithdrawClaim Answer: denied, evicting"},
		{"repeated; expired", "Answer Answer: allowed repeated, the disruption"},
	} {
		a := begin()
		var got []string
		if a.Next() != AppendClaim {
			t.Fatalf("starts with %v", a.Next())
		}
		for _, word := range strings.Split(tt.story, "; ") {
			tell(t, a, word)
			got = append(got, a.Next().String())
		}
		if text := strings.Join(got, " ") + ": " + ending(a.Outcome()); !strings.HasPrefix(text, tt.want) {
			t.Errorf("%s\n got %s\nwant %s", tt.story, text, tt.want)
		}
	}
}

func ending(o Outcome) string {
	word := "denied"
	switch {
	case o.Allowed && o.Undecidable:
		word = "allowed and undecidable"
	case o.Allowed:
		word = "allowed"
	case o.Undecidable:
		word = "undecidable"
	}
	if o.Repeated {
		word += " repeated"
	}
	return word + ", " + o.Sentence
}

// TestAttemptCounts gives one or two rounds of reads; + are available pods,
// one slot is free, and the own claim has ticket 5.
// What counts is S1 of R3.
func TestAttemptCounts(t *testing.T) {
	for _, tt := range []struct{ first, second, want string }{
		{"c1 +++ me=P5@c1-0 | c2 +++", "", "GrantClaim"},
		{"c1 +++ | c2 +++ b=G9@c2-0", "", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P4@c2-0", "", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "", "AwaitChange"},
		// The same ticket: the cluster decides, then the ID.
		{"c1 +++ a=P5@c1-1 | c2 +++", "", "WithdrawClaim"},
		{"c1 +++ | c2 +++ a=P5@c2-0", "", "AwaitChange"},
		{"c1 +++ z=P5@c1-1 | c2 +++", "", "AwaitChange"},
		// A claim on a pod that is not available takes nothing more.
		{"c1 +++ | c2 ++- b=G9@c2-2", "", "WithdrawClaim"},
		{"c1 -++ | c2 +++ b=G9@c1-0", "", "GrantClaim"},
		{"c1 +++ | c2 +++ b=G9@elsewhere", "", "GrantClaim"},
		// The stronger of two claims on one pod counts, in either order.
		{"c1 +++ | c2 +++ b=P6@c2-0 c=G7@c2-0", "", "WithdrawClaim"},
		{"c1 +++ | c2 +++ c=G7@c2-0 b=P6@c2-0", "", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0 c=P4@c2-0", "", "WithdrawClaim"},
		// S1: later claims count us (F01), gone ones do not count.
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ c=P4@c2-1", "GrantClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ c=G4@c2-1", "GrantClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ b=G6@c2-0", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ b=P6@c2-0 c=P4@c2-1", "AwaitChange"},
		// Later claims of those who read other clusters may not (V11, V15).
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ c=G4@c2-1?", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ c=P4@c2-1?", "WithdrawClaim"},
		{"c1 +++ | c2 +++ b=P6@c2-0", "c1 +++ | c2 +++ c=P8@c2-1?", "AwaitChange"},
		// S1 of a cluster starts with its first valid snapshot (X15).
		{"c1 +++ | c2 !gone", "c1 +++ | c2 +++ b=G4@c2-0", "WithdrawClaim"},
		{"c1 +++ | c2 !gone", "c1 +++ b=G4@c1-1 | c2 +++", "GrantClaim"},
		// Whatever view it shows: claims tell their own.
		{"c1 +++ | c2 +++?", "c1 +++ | c2 +++ b=G6@c2-0", "GrantClaim"},
		{"c1 +++ | c2 +++?", "c1 +++ | c2 +++ b=G6@c2-0?", "WithdrawClaim"},
	} {
		a := begin()
		for _, word := range strings.Split(ready+"0s "+tt.first, "; ") {
			tell(t, a, word)
		}
		rounds := 1
		if tt.second != "" {
			tell(t, a, "changed")
			tell(t, a, "0s "+tt.second)
			rounds = 2
		}
		if got := a.Next().String(); got != tt.want || a.Rounds() != rounds {
			t.Errorf("%s; %s: got %s after %d rounds, want %s: %s", tt.first, tt.second, got, a.Rounds(), tt.want, a.Outcome().Sentence)
		}
	}
}

// TestAttemptOfSeveralBudgets: all must allow, one may deny.
func TestAttemptOfSeveralBudgets(t *testing.T) {
	report := func(bound budget.Bound, pods string) Report {
		r := shown("c1 " + pods).Budgets["n/b"]
		r.Bounds = []budget.Bound{bound}
		return r
	}
	min := func(n int) budget.Bound { return budget.Bound{Kind: budget.MinAvailable, Value: n} }
	for _, tt := range []struct {
		one, two Report
		want     Step
		decides  string
	}{
		{report(min(2), "+++"), report(min(1), "+++"), GrantClaim, "n/one"},
		{report(min(1), "+++"), report(min(2), "+++"), GrantClaim, "n/two"},
		{report(min(2), "+++"), report(min(3), "+++"), WithdrawClaim, "n/two"},
		{report(min(3), "+++"), report(min(2), "+++"), WithdrawClaim, "n/one"},
		// "No" speaks before "not known".
		{Report{Undecided: "no selector"}, report(min(3), "+++"), WithdrawClaim, "n/two"},
		{Report{Undecided: "no selector"}, report(min(1), "+++"), AwaitChange, "n/one"},
	} {
		a := Begin(Request{
			Claim:    Claim{ID: "me", UID: "c1-0", Pod: "db-0", Cluster: "c1"},
			Budgets:  []Covering{{Name: "n/one", Clusters: []string{"c1"}}, {Name: "n/two", Clusters: []string{"c1"}}},
			Deadline: noon.Add(time.Minute), Patience: noon.Add(time.Second),
		})
		for _, word := range strings.Split(strings.TrimSuffix(ready, "; "), "; ") {
			tell(t, a, word)
		}
		a.Read([]Snapshot{{Cluster: "c1", Budgets: map[string]Report{"n/one": tt.one, "n/two": tt.two}}}, noon)
		if a.Next() != tt.want || a.Outcome().Budget != tt.decides {
			t.Errorf("got %v by %s, want %v by %s: %s", a.Next(), a.Outcome().Budget, tt.want, tt.decides, a.Outcome().Sentence)
		}
	}
}

func TestAttemptWithoutBudgetIsNeverGranted(t *testing.T) {
	a := Begin(Request{Claim: Claim{ID: "me", UID: "c1-0", Cluster: "c1"}, Deadline: noon.Add(time.Minute), Patience: noon.Add(time.Minute)})
	for _, word := range strings.Split(ready+"0s c1 +++", "; ") {
		tell(t, a, word)
	}
	if a.Next() != WithdrawClaim {
		t.Errorf("got %v", a.Next())
	}
}

func TestAttemptNamesWhatToDo(t *testing.T) {
	a := begin()
	tell(t, a, "appended")
	tell(t, a, "registry i2,i1,i3")
	if got := a.Unwritten(); !slices.Equal(got, []string{"i1", "i2", "i3"}) {
		t.Errorf("unwritten: %v", got)
	}
	tell(t, a, "written i2")
	if got := a.Unwritten(); !slices.Equal(got, []string{"i1", "i3"}) {
		t.Errorf("still unwritten: %v", got)
	}
	if got := a.Clusters(); !slices.Equal(got, []string{"c1", "c2"}) {
		t.Errorf("clusters: %v", got)
	}
	if c := a.Claim(); c.State != Pending || c.Ticket != 5 {
		t.Errorf("claim: %+v", c)
	}
}

// TestQuestionTakesLastKnownBounds: the bound of a cluster that cannot be read binds (B03).
func TestQuestionTakesLastKnownBounds(t *testing.T) {
	min3 := []budget.Bound{{Kind: budget.MinAvailable, Value: 3}}
	b := Covering{Name: "n/b", Clusters: []string{"c1", "c2", "c3"}, LastKnown: map[string][]budget.Bound{"c1": min3, "c2": min3, "c3": min3}}
	q := Question(b, "db-0", "c1-0", []Snapshot{shown("c1 +++"), shown("c2 !gone")}, nil)
	var got []string
	for _, c := range q.Clusters {
		got = append(got, fmt.Sprint(c.Name, " ", c.Unread, " ", c.Bounds))
	}
	want := "c1  [maxUnavailable 1], c2 gone [minAvailable 3], c3 never read [minAvailable 3]"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got %s\nwant %s", text, want)
	}
}

// A waived disruption is claimed like any other, so that nobody counts the pod,
// and looks at no cluster.
func TestAWaivedAttemptIsClaimedAndGrantedWithoutALook(t *testing.T) {
	for _, writing := range [][]string{{"registry i1", "written i1"}, {"written i1", "registry i1"}} {
		a := begin("n/b", "n/d")
		a.request.Waived = "db-0 is not ready"
		tell(t, a, "appended")
		for _, word := range writing {
			if a.Next() == ReadClusters || a.Next() == GrantClaim {
				t.Fatalf("%v: %s before every instance shows the claim", writing, a.Next())
			}
			tell(t, a, word)
		}
		if a.Next() != GrantClaim {
			t.Fatalf("%v: then %s", writing, a.Next())
		}
		tell(t, a, "granted ok")
		o := a.Outcome()
		if a.Next() != Answer || !o.Allowed || !o.Waived || o.Budget != "n/b" || o.Sentence != "db-0 is not ready" || a.Rounds() != 0 {
			t.Errorf("%v: %s, %+v after %d rounds", writing, a.Next(), o, a.Rounds())
		}
	}
}

// That a pod is not available must hold once its claim is shown: before that,
// somebody may have counted it.
func TestAWaiverIsConfirmedAfterTheClaimIsShown(t *testing.T) {
	for _, still := range []bool{true, false} {
		a := begin("n/b")
		a.request.Waived, a.request.Confirm = "db-0 is not ready", true
		for _, word := range []string{"appended", "registry i1", "written i1"} {
			if a.Next() == ConfirmWaiver {
				t.Fatalf("confirmed before %s", word)
			}
			tell(t, a, word)
		}
		if a.Next() != ConfirmWaiver {
			t.Fatalf("then %s", a.Next())
		}
		a.Confirmed(still)
		want := ReadClusters
		if still {
			want = GrantClaim
		}
		if a.Next() != want {
			t.Errorf("still free %t: then %s, want %s", still, a.Next(), want)
		}
		if !still {
			tell(t, a, "0s c1 ++ | c2 -+")
			if a.Next() != WithdrawClaim || a.Outcome().Waived {
				t.Errorf("the budget is not asked: %s, %+v", a.Next(), a.Outcome())
			}
		}
	}
}
