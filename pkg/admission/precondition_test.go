package admission

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
)

const added = `"annotations":{"meshpdb.io/precondition-added":"true"}`

// R12: every eviction leaves with the UID of the pod that is meant, and
// otherwise as it came.
func TestThePreconditionIsAdded(t *testing.T) {
	for name, c := range map[string]struct{ object, want string }{
		"no options":        {`{"kind":"Eviction","metadata":{"name":"db-0"}}`, `{"kind":"Eviction","metadata":{"name":"db-0",` + added + `},"deleteOptions":{"preconditions":{"uid":"u0"}}}`},
		"empty options":     {`{"deleteOptions":{}}`, `{"metadata":{` + added + `},"deleteOptions":{"preconditions":{"uid":"u0"}}}`},
		"annotations":       {`{"metadata":{"annotations":{"a":"b"}}}`, `{"metadata":{"annotations":{"a":"b","meshpdb.io/precondition-added":"true"}},"deleteOptions":{"preconditions":{"uid":"u0"}}}`},
		"other options":     {`{"metadata":{},"deleteOptions":{"dryRun":["All"],"gracePeriodSeconds":30}}`, `{"metadata":{` + added + `},"deleteOptions":{"dryRun":["All"],"gracePeriodSeconds":30,"preconditions":{"uid":"u0"}}}`},
		"a version":         {`{"metadata":{},"deleteOptions":{"preconditions":{"resourceVersion":"7"}}}`, `{"metadata":{` + added + `},"deleteOptions":{"preconditions":{"resourceVersion":"7","uid":"u0"}}}`},
		"fields of a later": {`{"metadata":{},"novel":{"deep":[1,null]},"deleteOptions":{"also":"novel"}}`, `{"metadata":{` + added + `},"novel":{"deep":[1,null]},"deleteOptions":{"also":"novel","preconditions":{"uid":"u0"}}}`},
		"large numbers":     {`{"metadata":{},"deleteOptions":{"gracePeriodSeconds":9007199254740993}}`, `{"metadata":{` + added + `},"deleteOptions":{"gracePeriodSeconds":9007199254740993,"preconditions":{"uid":"u0"}}}`},
		// Whoever names the pod is believed; a wrong UID ends as a conflict.
		"a UID": {`{"deleteOptions":{"preconditions":{"uid":"mine"}}}`, `{"deleteOptions":{"preconditions":{"uid":"mine"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			response := handle(t, d.precondition(), evicting(c.object))
			if !response.Allowed {
				t.Fatalf("refused: %+v", response.Result)
			}
			got, want := decoded(t, c.object), decoded(t, c.want)
			for _, p := range response.Patches {
				if p.Operation != "add" {
					t.Fatalf("patch %s changes what is there", p.Json())
				}
				at := got
				path := strings.Split(strings.TrimPrefix(p.Path, "/"), "/")
				for _, field := range path[:len(path)-1] {
					at = at[field].(map[string]any)
				}
				raw, err := json.Marshal(p.Value)
				if err != nil {
					t.Fatal(err)
				}
				last := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[len(path)-1])
				at[last] = decoded(t, `{"value":`+string(raw)+`}`)["value"]
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func decoded(t *testing.T, object string) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// An eviction without a pod must not meet one that is created meanwhile.
func TestThePreconditionOfAPodThatIsNotThere(t *testing.T) {
	d := newDesk()
	d.cached, d.live = nil, nil
	response := handle(t, d.precondition(), evicting(`{"metadata":{"name":"db-0"}}`))
	if !response.Allowed {
		t.Fatalf("got %+v", response)
	}
	if raw, _ := json.Marshal(response.Patches); !strings.Contains(string(raw), `{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}`) {
		t.Errorf("patched with %s", raw)
	}
}

func TestThePreconditionRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		object, refusal string
		desk            func(*desk)
	}{
		"undecodable":   {object: `{"deleteOptions":[]}`, refusal: "could not be decoded"},
		"empty":         {object: ``, refusal: "could not be decoded"},
		"null":          {object: `null`, refusal: "could not be decoded: it is null"},
		"null options":  {object: `{"deleteOptions":null}`, refusal: "could not be given a UID precondition"},
		"look-up fails": {object: `{}`, refusal: "pod db-0 could not be looked up: timed out", desk: func(d *desk) { d.cached, d.liveErr = nil, errors.New("timed out") }},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			if c.desk != nil {
				c.desk(d)
			}
			response := handle(t, d.precondition(), evicting(c.object))
			isRefusal(t, response, c.refusal)
			if len(response.Patches) != 0 {
				t.Errorf("patched: %v", response.Patches)
			}
		})
	}
	response := handle(t, &Precondition{Config{Pods: panicking{newDesk()}, Log: logr.Discard()}}, evicting(`{}`))
	isRefusal(t, response, "internal error")
}

type panicking struct{ *desk }

func (panicking) CachedPod(context.Context, string, string) (*corev1.Pod, error) { panic("nil map") }

func (panicking) Pod(context.Context, string, string) (*corev1.Pod, error) { panic("nil map") }

// The mutating side is called first, so what the cached view refuses costs one
// call of a webhook, and no look-up in the API.
func TestThePreconditionRefusesWhatTheCachedViewRefuses(t *testing.T) {
	spent := no
	spent.Cached = true
	for name, c := range map[string]struct {
		object string
		query  bool
		desk   func(*desk)
		// asked: the cached view was asked. lookups of the pod in the API.
		asked   bool
		refusal string
		lookups int
	}{
		"refused":                 {object: `{"deleteOptions":{}}`, asked: true, refusal: "there is no room"},
		"refused, UID given":      {object: plain, asked: true, refusal: "there is no room"},
		"refused, dry-run":        {object: `{"deleteOptions":{"dryRun":["All"]}}`, asked: true, refusal: "there is no room"},
		"refused, dry by query":   {object: `{"deleteOptions":{}}`, query: true, asked: true, refusal: "there is no room"},
		"not refused":             {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.refuse = nil }, asked: true},
		"another pod is meant":    {object: `{"deleteOptions":{"preconditions":{"uid":"mine"}}}`},
		"not known yet":           {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.cached = nil }, lookups: 1},
		"terminating":             {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.cached.DeletionTimestamp = &going }},
		"not covered":             {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.budgets = nil }},
		"not ready to decide":     {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.notReady = errors.New("starting") }},
		"scope not known":         {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.budgets[0] = fresh("b") }},
		"out of scope":            {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.budgets[0] = budgetOf("b", "c2") }},
		"informer cannot be read": {object: `{"deleteOptions":{}}`, desk: func(d *desk) { d.cachedErr = errors.New("not started") }, lookups: 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			d.refuse = &spent
			if c.desk != nil {
				c.desk(d)
			}
			r := evicting(c.object)
			if c.query {
				dry(&r)
			}
			response := handle(t, d.precondition(), r)
			if c.refusal == "" {
				if !response.Allowed || len(d.answered) != 0 {
					t.Errorf("got %+v, told of %v", response.Result, d.answered)
				}
			} else {
				isRefusal(t, response, c.refusal)
				dryRun := strings.HasSuffix(name, "dry-run") || c.query
				if len(d.answered) != 1 || d.answered[0].DryRun != dryRun || !d.answered[0].Cached || d.answered[0].User != "jane" {
					t.Errorf("told of %+v", d.answered)
				}
				if d.refused[0].DryRun != dryRun {
					t.Errorf("asked with DryRun %t", d.refused[0].DryRun)
				}
			}
			if asked := len(d.refused) == 1; asked != c.asked || len(d.decided) != 0 || d.liveLookups != c.lookups {
				t.Errorf("cached view asked %d times, decided %d times, looked up %d times", len(d.refused), len(d.decided), d.liveLookups)
			}
		})
	}
}
