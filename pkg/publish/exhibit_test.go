package publish

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

// Thousands of pods that were there before are verified by the one list of the
// restore, not one by one.
func TestTheFirstListVerifiesAll(t *testing.T) {
	s := newSite()
	uids := []string{}
	for i := range 50 {
		uids = append(uids, fmt.Sprintf("p%02d", i))
		s.alive[uids[i]] = true
	}
	s.parts = []Part{part(1, uids...)}
	s.before["LivePods"] = func(ctx context.Context) error {
		select {
		case <-time.After(time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.play(t, func(t *testing.T, p *Publisher) {
		// The reconciler is quicker than the list.
		starting := part(1, uids...)
		starting.Pods[0].Unavailable = wire.NotReady
		for _, p0 := range []Part{starting, part(1, uids...)} {
			if err := p.Set(t.Context(), p0); err != nil {
				t.Error(err)
			}
		}
		for _, err := range p.Problems() {
			if err != ErrStarting {
				t.Errorf("a list that is under way is no problem yet: %v", err)
			}
		}
		pass(2 * time.Second)
		expect(t, "looks at single pods", s.taken("Ended"), []string(nil))
		want := []string{"b=1"}
		for _, uid := range uids {
			want = append(want, uid+"=Available")
		}
		expect(t, "i1", s.shows("i1"), want)
		// Later ones are looked at.
		s.alive["new"] = true
		if err := p.Set(t.Context(), part(2, append(uids, "new")...)); err != nil {
			t.Error(err)
		}
		expect(t, "looks at single pods", s.taken("Ended"), []string{"Ended new"})
	})
}

// Many changes at once are written in several steps, between which the marker is kept alive.
func TestFlushesAreBounded(t *testing.T) {
	s := newSite()
	var uids []string
	for i := range 3*flushSize - 5 {
		uids = append(uids, fmt.Sprint(i))
		s.alive[uids[i]] = true
	}
	s.play(t, func(t *testing.T, p *Publisher) {
		s.taken()
		if err := p.Set(t.Context(), part(2, uids...)); err != nil {
			t.Error(err)
		}
		pass(time.Second)
		// p0 goes, the budget changes: 2 records more.
		if n := len(s.taken("Publish")); n != 3 {
			t.Errorf("%d writes", n)
		}
		if shown := s.shows("i1"); len(shown) != len(uids)+1 || slices.Contains(shown, "p0=Available") {
			t.Errorf("%d records are shown, want %d", len(shown), len(uids)+1)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if state := p.instances["i1"]; state.shown != p.generation || len(state.dirty) > 0 {
			t.Errorf("shown %d of generation %d, %d are left", state.shown, p.generation, len(state.dirty))
		}
	})
}

func TestDifferences(t *testing.T) {
	show := func(bound int64, pods ...string) *exhibit {
		e := &exhibit{Part: part(bound)}
		e.Budget.Expected = 3
		for _, text := range pods {
			uid, state := text[:1], wire.Unavailability(text[1:])
			e.Pods = append(e.Pods, wire.Pod{UID: uid, Name: uid, IPs: []string{"10.0.0.1"}})
			e.states = append(e.states, state)
		}
		return e
	}
	moved := show(1, "a", "b")
	moved.Pods[1].IPs = []string{"10.0.0.2"}
	movedAway := show(1, "a", "bNotReady")
	movedAway.Pods[1].IPs = []string{"10.0.0.2"}
	for name, c := range map[string]struct {
		old, fresh *exhibit
		want       string
	}{
		"nothing":           {show(1, "a", "b"), show(1, "a", "b"), "[]"},
		"from none":         {nil, show(1, "a"), "[{n/b } {n/b a}]"},
		"to none":           {show(1, "a"), nil, "[{n/b } {n/b a}]"},
		"none at all":       {nil, nil, "[]"},
		"the budget":        {show(1, "a"), show(2, "a"), "[{n/b }]"},
		"one state":         {show(1, "a", "b"), show(1, "a", "bNotReady"), "[{n/b b}]"},
		"one address":       {show(1, "a", "b"), moved, "[{n/b b}]"},
		"of one not ready":  {show(1, "a", "bNotReady"), movedAway, "[]"},
		"and it is ready":   {movedAway, moved, "[{n/b b}]"},
		"another order":     {show(1, "a", "b"), show(1, "b", "a"), "[]"},
		"one comes":         {show(1, "a"), show(1, "a", "b"), "[{n/b b}]"},
		"one goes":          {show(1, "a", "b"), show(1, "b"), "[{n/b a}]"},
		"one for another":   {show(1, "a", "b"), show(1, "a", "c"), "[{n/b b} {n/b c}]"},
		"state and another": {show(1, "a", "b"), show(1, "c", "bNotReady"), "[{n/b a} {n/b b} {n/b c}]"},
	} {
		got := differences("n/b", c.old, c.fresh)
		slices.SortFunc(got, func(a, b ref) int { return slices.Compare([]string{a.uid}, []string{b.uid}) })
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: got %v, want %s", name, got, c.want)
		}
	}
}

// Whoever shows the problems is told when they change, and only then.
func TestChangesOfProblemsAreTold(t *testing.T) {
	s := newSite()
	s.before["PutMarker"] = fail
	synctest.Test(t, func(t *testing.T) {
		p := s.publisher(t)
		told := 0
		p.config.Changed = func() { told++ }
		stop := s.start(t, p)
		pass(5 * time.Second)
		expect(t, "told of a failure", told, 1)
		s.edit(func() { delete(s.before, "PutMarker") })
		pass(5 * time.Second)
		expect(t, "told that it is gone", told, 2)
		pass(time.Minute)
		expect(t, "told of nothing", told, 2)
		s.edit(func() { s.before["Alive"] = fail; s.before["PutIncarnation"] = fail })
		pass(10 * time.Second)
		if told != 3 {
			t.Errorf("told %d times", told)
		}
		stop()
	})
}
