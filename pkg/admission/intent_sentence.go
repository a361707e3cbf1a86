package admission

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/meshpdb/meshpdb/pkg/workload"
)

const (
	// warningRunes is up to where the API server never cuts a warning (k8s.io/apiserver/pkg/endpoints/filters/warning.go).
	warningRunes = 256
	// refusalRunes leaves room for the advice below the 1 KiB of an Event.
	refusalRunes = 600
	// nameRunes of a name are kept. Names of objects have up to 253.
	nameRunes = 48
)

// warning says what goes with the object, in at most warningRunes. Budgets
// that do not fit are counted.
func warning(i intent, loss workload.Loss) string {
	advice := "; " + alternative(i)
	return takes(i, "takes", loss, warningRunes-utf8.RuneCountInString(advice)) + advice
}

// refusal says what would go and what to do instead. It names the budgets that refuse first.
func refusal(i intent, loss workload.Loss, denying []workload.BudgetLoss) string {
	loss.Budgets = slices.Clone(loss.Budgets)
	slices.SortStableFunc(loss.Budgets, func(a, b workload.BudgetLoss) int { return strictness(b) - strictness(a) })
	which := "the budget"
	if len(denying) > 1 {
		which = "the budgets"
	}
	var names []string
	for _, l := range denying {
		names = append(names, short(nameOf(*l.Budget)))
	}
	if more := len(names) - 3; more > 0 {
		names = append(names[:3], fmt.Sprintf("%d more", more))
	}
	return takes(i, "would take", loss, refusalRunes) + fmt.Sprintf("; %s, delete %s, or set deletionProtection of %s to Warn", alternative(i), which, strings.Join(names, " and "))
}

// strictness orders budgets by what they answer.
func strictness(l workload.BudgetLoss) int { return len(denying([]workload.BudgetLoss{l})) }

// takes says what goes, in at most limit runes if at least one budget fits.
func takes(i intent, verb string, loss workload.Loss, limit int) string {
	head := fmt.Sprintf("deleting %s %s %s %s", strings.ToLower(i.kind), short(i.object.Name), verb, available(loss.Pods))
	if len(loss.Budgets) == 1 {
		return fmt.Sprintf("%s of budget %s", head, allows(loss.Budgets[0]))
	}
	// No part is shorter than "1 of n/b, which allows 0; ".
	const least = 26
	text := ""
	for named := min(len(loss.Budgets), max(limit/least, 1)); named > 0; named-- {
		var parts []string
		for _, b := range loss.Budgets[:named] {
			parts = append(parts, fmt.Sprintf("%d of %s", b.Pods, allows(b)))
		}
		if more := len(loss.Budgets) - named; more > 0 {
			parts = append(parts, fmt.Sprintf("%d more budgets", more))
		}
		text = head + ": " + strings.Join(parts, "; ")
		if utf8.RuneCountInString(text) <= limit {
			break
		}
	}
	return text
}

// allows names a budget and what it allows at present, as its status tells.
func allows(l workload.BudgetLoss) string {
	return fmt.Sprintf("%s, which allows %d", short(nameOf(*l.Budget)), l.Budget.Status.DisruptionsAllowed)
}

// alternative is how to go about it in accordance with the budgets, or in plain sight.
func alternative(i intent) string {
	switch i.kind {
	case "Node":
		return "drain it first"
	case "Namespace":
		return "scale its workloads to zero first"
	case "DaemonSet":
		// It has no scale.
		return "orphan its pods and evict them"
	}
	if len(i.object.OwnerReferences) > 0 {
		// Its owner sets its scale, and makes it anew.
		return "evict its pods instead"
	}
	return "scale it to zero first"
}

func available(n int) string {
	if n == 1 {
		return "1 available pod"
	}
	return fmt.Sprintf("%d available pods", n)
}

// short keeps the ends of a long name.
func short(name string) string {
	runes := []rune(name)
	if len(runes) <= nameRunes {
		return name
	}
	const tail = 15
	return string(runes[:nameRunes-tail-1]) + "…" + string(runes[len(runes)-tail:])
}

// atMost cuts a text that holds other programs' words.
func atMost(limit int, text string) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}
