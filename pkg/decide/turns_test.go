package decide

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// tells shows a waiter for budget n/b in a view: c2-0, refused for 20 s, asked
// for every 5 s, the last time so long ago.
func tells(s claim.Snapshot, last time.Duration) claim.Snapshot {
	now := time.Now()
	s.Waiters = map[string][]claim.Waiter{"n/b": {{
		Cluster: s.Cluster, UID: s.Cluster + "-0", Pod: "db-7", Ticket: 1, First: now.Add(-20 * time.Second), Last: now.Add(-last), Every: 5 * time.Second,
	}}}
	return s
}

func TestGivingWay(t *testing.T) {
	for name, c := range map[string]struct {
		view func() claim.Snapshot
		want bool
	}{
		"its next try is due": {func() claim.Snapshot { return tells(view("c2 ++"), 4*time.Second) }, true},
		"its next try is far": {func() claim.Snapshot { return tells(view("c2 ++"), time.Second) }, false},
		"it is being served":  {func() claim.Snapshot { return tells(with(view("c2 ++"), pending("c2-0", 9)), 4*time.Second) }, false},
		"it is gone":          {func() claim.Snapshot { return tells(view("c2 ++"), time.Minute) }, false},
		"it is not available": {func() claim.Snapshot {
			s := tells(view("c2 ++"), 4*time.Second)
			s.Waiters["n/b"][0].UID = "old"
			return s
		}, false},
		"its cluster is not read": {func() claim.Snapshot { s := tells(view("c2 ++"), 4*time.Second); s.Invalid = "gone"; return s }, false},
		"it waits for another one": {func() claim.Snapshot {
			s := tells(view("c2 ++"), 4*time.Second)
			s.Waiters["n/x"] = s.Waiters["n/b"]
			delete(s.Waiters, "n/b")
			return s
		}, false},
		"nobody waits": {func() claim.Snapshot { return view("c2 ++") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.fresh["c2"] = with(view("c2 ++"), claim.Claim{ID: "old", UID: "gone", State: claim.Granted, Ticket: 3, Cluster: "c2"})
				s.cached["c2"] = c.view()
				d := s.decider(t)
				defer d.Close()
				// A request that came later than the waiter, by its ticket.
				d.sawTicket("n", 7)
				o, refused := d.Refuse(request())
				if o.GaveWay != c.want || c.want && !refused {
					t.Fatalf("got %t %+v", refused, o)
				}
				if c.want {
					expect(t, "sentence", o.Sentence, "evicting db-0 gives way to db-7 in cluster c2, which has waited longer for budget n/b to have 4 of 4 pods available and is about to be asked for again")
					expect(t, "calls", s.taken(), []string{"Cached c1", "Cached c2"})
					<-time.After(claim.Hold)
					if o, refused := d.Refuse(request()); refused {
						t.Errorf("still gives way after %s: %+v", claim.Hold, o)
					}
				}
			})
		})
	}
}

// Who waits long is told to every instance of the own kvstore, soon after a
// try and once a second at most, however often it is refused.
func TestTheMeshIsToldOfWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.cached["c2"] = view("c2 +-")
		d := s.decider(t)
		try := func(uid, pod string) {
			r := request()
			r.UID, r.Pod = uid, pod
			if _, refused := d.Refuse(r); !refused {
				t.Fatal("not refused")
			}
			dry := r
			dry.UID, dry.Pod, dry.DryRun = "dry", "dry", true
			d.Refuse(dry)
		}
		for range 7 {
			try("c1-0", "db-0")
			<-time.After(time.Second)
		}
		expect(t, "told of a short wait", s.taken("WriteWaiters", "Instances"), []string{})
		for range 40 {
			try("c1-0", "db-0")
			<-time.After(100 * time.Millisecond)
		}
		got := s.taken("WriteWaiters")
		if len(got) < 4 || len(got) > 8 {
			t.Errorf("two instances were told %d times within 3 s", len(got))
		}
		for _, call := range got {
			if !strings.HasSuffix(call, " n/b r1 db-0") {
				t.Errorf("told %q", call)
			}
		}
		// Once it is served, the others' turn comes: the record goes at the next refusal.
		s.cached["c2"] = view("c2 ++")
		if o := d.Decide(t.Context(), request()); !o.Allowed {
			t.Fatal(o.Sentence)
		}
		if d.turns.Place("n/b", "c1-0") != 0 {
			t.Error("who was served still waits")
		}
		d.Close()
	})
}

// A pod that was refused before keeps its ticket: it goes before claims that
// were drawn later, in every cluster.
func TestAWaiterKeepsItsTicket(t *testing.T) {
	s := newStage()
	s.cached["c2"] = view("c2 +-")
	d := s.decider(t)
	if _, refused := d.Refuse(request()); !refused {
		t.Fatal("not refused")
	}
	s.cached["c2"] = view("c2 ++")
	s.ledger.Ticket = 41
	if o := d.Decide(t.Context(), request()); !o.Allowed || s.ledger.Claims[0].Ticket != 1 {
		t.Errorf("got %+v, ledger %+v", o, s.ledger)
	}
	d.Close()
}

func TestRefusalsTellTheAgeOfTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			c1, c2 time.Duration
			want   string
		}{
			{0, 0, "; c2 1/2), by a view at most 2s old"},
			{time.Second, 1900 * time.Millisecond, ", by a view at most 2s old"},
			{7 * time.Second, time.Second, ", by a view at most 10s old"},
			{20 * time.Minute, 0, ", by a view 20m0s old"},
			{-1, -1, "c2 1/2)"},
		} {
			s := newStage()
			seen := func(v claim.Snapshot, ago time.Duration) claim.Snapshot {
				if ago >= 0 {
					v.Seen = time.Now().Add(-ago)
				}
				return v
			}
			s.cached["c1"], s.cached["c2"] = seen(view("c1 ++"), tt.c1), seen(view("c2 +-"), tt.c2)
			o, refused := s.decider(t).Refuse(request())
			if !refused || !o.Cached || !strings.HasSuffix(o.Sentence, tt.want) {
				t.Errorf("got %t %q, want %q", refused, o.Sentence, tt.want)
			}
		}
	})
}
