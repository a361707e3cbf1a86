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

// R12: every eviction leaves with the UID of the pod that is meant, and
// otherwise as it came.
func TestThePreconditionIsAdded(t *testing.T) {
	for name, c := range map[string]struct{ object, want string }{
		"no options":        {`{"kind":"Eviction","metadata":{"name":"db-0"}}`, `{"kind":"Eviction","metadata":{"name":"db-0"},"deleteOptions":{"preconditions":{"uid":"u0"}}}`},
		"empty options":     {`{"deleteOptions":{}}`, `{"deleteOptions":{"preconditions":{"uid":"u0"}}}`},
		"other options":     {`{"deleteOptions":{"dryRun":["All"],"gracePeriodSeconds":30}}`, `{"deleteOptions":{"dryRun":["All"],"gracePeriodSeconds":30,"preconditions":{"uid":"u0"}}}`},
		"a version":         {`{"deleteOptions":{"preconditions":{"resourceVersion":"7"}}}`, `{"deleteOptions":{"preconditions":{"resourceVersion":"7","uid":"u0"}}}`},
		"fields of a later": {`{"novel":{"deep":[1,null]},"deleteOptions":{"also":"novel"}}`, `{"novel":{"deep":[1,null]},"deleteOptions":{"also":"novel","preconditions":{"uid":"u0"}}}`},
		"large numbers":     {`{"deleteOptions":{"gracePeriodSeconds":9007199254740993}}`, `{"deleteOptions":{"gracePeriodSeconds":9007199254740993,"preconditions":{"uid":"u0"}}}`},
		// Whoever names the pod is believed; a wrong UID ends as a conflict.
		"a UID": {`{"deleteOptions":{"preconditions":{"uid":"mine"}}}`, `{"deleteOptions":{"preconditions":{"uid":"mine"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			// Of a predecessor, which the informer still shows: the eviction would fail with a conflict.
			d.cached.UID = "old"
			response := handle(t, &Precondition{Pods: d, Log: logr.Discard()}, evicting(c.object))
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
				at[path[len(path)-1]] = decoded(t, `{"value":`+string(raw)+`}`)["value"]
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
	d.live = nil
	response := handle(t, &Precondition{Pods: d, Log: logr.Discard()}, evicting(`{"metadata":{"name":"db-0"}}`))
	if !response.Allowed || len(response.Patches) != 1 {
		t.Fatalf("got %+v", response)
	}
	if raw, _ := json.Marshal(response.Patches[0].Value); string(raw) != `{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}` {
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
		"null":          {object: `null`, refusal: "internal error"},
		"null options":  {object: `{"deleteOptions":null}`, refusal: "could not be given a UID precondition"},
		"look-up fails": {object: `{}`, refusal: "pod db-0 could not be looked up: timed out", desk: func(d *desk) { d.liveErr = errors.New("timed out") }},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			if c.desk != nil {
				c.desk(d)
			}
			response := handle(t, &Precondition{Pods: d, Log: logr.Discard()}, evicting(c.object))
			isRefusal(t, response, c.refusal)
			if len(response.Patches) != 0 {
				t.Errorf("patched: %v", response.Patches)
			}
		})
	}
	response := handle(t, &Precondition{Pods: panicking{newDesk()}, Log: logr.Discard()}, evicting(`{}`))
	isRefusal(t, response, "internal error")
}

type panicking struct{ *desk }

func (panicking) Pod(context.Context, string, string) (*corev1.Pod, error) { panic("nil map") }
