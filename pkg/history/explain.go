package history

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// maxSteps is how many operations a violation is told with.
	maxSteps = 16
	// maxExplain is how long one of the searches takes that put it into words.
	maxExplain = 200 * time.Millisecond
)

// Violation is a permission that no order of what happened makes right.
type Violation struct {
	// Pod by its UID, and Cluster.
	Pod, Cluster string
	// At is when the permission took effect.
	At Interval
	// Counted is how many pods would have counted after it, in an order that is right
	// for as many others as possible; Desired how many the budget wanted of Expected.
	Counted, Desired, Expected int
	// Steps are what happened since all pods counted for the last time, in words.
	Steps []string

	permission string
	part       *part
	info       porcupine.LinearizationInfo
}

// String tells the violation in words.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %d of %d pods would have counted without it, and the budget wanted %d",
		v.permission, describe(v.At), v.Counted, v.Expected, v.Desired)
	for _, s := range v.Steps {
		b.WriteString("\n  " + s)
	}
	return b.String()
}

// Visualize draws the search as porcupine does: one page of HTML.
func (v Violation) Visualize(w io.Writer) error {
	if err := porcupine.Visualize(v.part.model(), v.info, w); err != nil {
		return fmt.Errorf("draw violation: %w", err)
	}
	return nil
}

// explain finds the first permission that is wrong in a part that is not right.
func (p *part) explain(limit time.Duration) Violation {
	limit = min(limit, maxExplain)
	var permits []operation
	for _, op := range p.ops {
		if op.what == permit {
			permits = append(permits, op)
		}
	}
	slices.SortStableFunc(permits, func(a, b operation) int { return cmp.Compare(a.Latest, b.Latest) })
	// Fewer permissions make the others no worse, so this is monotone; a search that is
	// not finished makes the explanation longer, not wrong.
	n := sort.Search(len(permits), func(i int) bool {
		return p.until(permits[:i+1]).check(limit) == porcupine.Illegal
	})
	some := p
	if n < len(permits) {
		some = p.until(permits[:n+1])
	}
	_, info := porcupine.CheckOperationsVerbose(some.model(), some.history(), limit)
	return some.tell(info)
}

// until is the part with these permissions only, and without what came after the
// last of them.
func (p *part) until(permits []operation) *part {
	end := permits[len(permits)-1].Latest
	kept := map[*permission]bool{}
	permitted := map[*pod]bool{}
	for _, op := range permits {
		kept[op.permission], permitted[op.pod] = true, true
	}
	some := *p
	some.ops = slices.DeleteFunc(slices.Clone(p.ops), func(op operation) bool {
		standing := op.what == lapse && p.place[op.pod] < len(p.init.pods) && p.init.pods[p.place[op.pod]]&isPermitted != 0
		return op.Earliest > end || op.what == permit && !kept[op.permission] || op.what == lapse && !permitted[op.pod] && !standing
	})
	return &some
}

// tell makes a violation of the longest order that the search found right.
func (p *part) tell(info porcupine.LinearizationInfo) Violation {
	var longest []int
	for _, order := range slices.Concat(info.PartialLinearizations()...) {
		// They come in no order; of several, tell the same each time.
		if len(order) > len(longest) || len(order) == len(longest) && slices.Compare(order, longest) < 0 {
			longest = order
		}
	}
	steps := slices.Clone(p.before)
	done := map[operation]bool{}
	w := p.init
	for _, i := range longest {
		op := p.ops[i]
		done[op] = true
		_, w = p.apply(w, op)
		steps = append(steps, op)
		if counted, _, expected := p.count(w); counted >= expected {
			steps = nil
		}
	}
	var culprit operation
	wrong := false
	for _, op := range p.ops {
		if op.what != permit || done[op] {
			continue
		}
		right, _ := p.apply(w, op)
		if culprit.what == 0 || !right && !wrong {
			culprit, wrong = op, !right
		}
	}
	_, after := p.apply(w, culprit)
	v := Violation{
		Pod: culprit.pod.uid, Cluster: culprit.pod.cluster.name, At: culprit.Interval,
		permission: culprit.String(), part: p, info: info,
	}
	v.Counted, v.Desired, v.Expected = p.count(after)
	for _, op := range steps {
		v.Steps = append(v.Steps, op.when()+": "+op.String())
	}
	if more := len(v.Steps) - maxSteps; more > 0 {
		v.Steps = append([]string{fmt.Sprintf("%d more before", more)}, v.Steps[more:]...)
	}
	return v
}

func (op operation) when() string {
	if op.Interval == beginning {
		return "at the beginning"
	}
	return describe(op.Interval)
}
