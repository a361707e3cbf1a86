package checkup

import (
	"cmp"
	"slices"
	"strings"
)

// Level is how bad a finding is.
type Level string

// Levels, the harmless first.
const (
	// OK: it was examined, and nothing is wrong.
	OK Level = "ok"
	// Note: nothing is wrong with it, and who asks why drains hang should know.
	Note Level = "note"
	// Unchecked: it could not be examined.
	Unchecked Level = "unchecked"
	// Warning: it works, and will not for ever or not for everybody.
	Warning Level = "warning"
	// Error: it does not work.
	Error Level = "error"
)

// Check names what was examined.
type Check string

// Checks, in the order in which they are told.
const (
	Controllers  Check = "controllers"
	Peers        Check = "peers"
	KVStore      Check = "kvstore"
	Certificates Check = "certificates"
	Webhooks     Check = "webhook configurations"
	Webhook      Check = "webhook"
	RBAC         Check = "rbac"
	Budgets      Check = "budgets"
	Services     Check = "services"
)

var order = []Check{Controllers, Peers, KVStore, Certificates, Webhooks, Webhook, RBAC, Budgets, Services}

// Finding is one thing that was found.
type Finding struct {
	Level   Level  `json:"level"`
	Context string `json:"context"`
	Check   Check  `json:"check"`
	// Message says what is the matter, with its numbers.
	Message string `json:"message"`
	// Fix says what to do about it; empty if nothing is to be done.
	Fix string `json:"fix,omitempty"`
}

// Code is the exit code of a run: 0 if nothing is wrong, 1 for warnings and
// what could not be examined, 2 for errors.
func Code(all []Finding) int {
	code := 0
	for _, f := range all {
		switch f.Level {
		case Warning, Unchecked:
			code = max(code, 1)
		case Error:
			code = 2
		}
	}
	return code
}

// Count counts the findings of a level.
func Count(all []Finding, level Level) int {
	n := 0
	for _, f := range all {
		if f.Level == level {
			n++
		}
	}
	return n
}

// sorted puts findings in the order of checks, and adds what passed: the checks
// that found nothing.
func sorted(context string, all []Finding, passed map[Check]string) []Finding {
	for check, message := range passed {
		if !slices.ContainsFunc(all, func(f Finding) bool { return f.Check == check }) {
			all = append(all, Finding{Level: OK, Check: check, Message: message})
		}
	}
	for i := range all {
		all[i].Context = context
		all[i].Fix = inContext(all[i].Fix, context)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Check), slices.Index(order, b.Check)), cmp.Compare(a.Message, b.Message))
	})
	return all
}

// inContext has the commands of a fix go to the context's cluster, if it does not say to which. A plugin's is at its
// end, for its flags come after its name.
func inContext(fix, context string) string {
	if strings.Contains(fix, "--context") {
		return fix
	}
	flag := " --context " + context
	text, own, found := strings.Cut(fix, "kubectl meshpdb ")
	text = strings.ReplaceAll(text, "kubectl ", "kubectl"+flag+" ")
	text = strings.ReplaceAll(text, "cilium clustermesh status", "cilium clustermesh status"+flag)
	if !found {
		return text
	}
	return text + "kubectl meshpdb " + own + flag
}
