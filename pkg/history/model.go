package history

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// What a world knows of a pod, as bits.
const (
	isAvailable = 1 << iota
	isPermitted
)

// world is the state of the model. It is comparable and never changed, which the
// search asks for.
type world struct {
	// pods has one byte of bits for each pod of the part.
	pods string
	// stated has two bytes for each cluster of the subject: the number of the
	// statement in force, high byte first, 0 for none.
	stated string
}

// part of a subject's operations that is judged by itself, between quiet points.
type part struct {
	subject *subject
	ops     []operation
	// pods that may matter, and where each is in a world.
	pods  []*pod
	place map[*pod]int
	init  world
	// before is what happened since all pods counted for the last time.
	before []operation
}

func (w world) statement(c int) int { return int(w.stated[2*c])<<8 | int(w.stated[2*c+1]) }

func (w world) withStatement(c, number int) world {
	b := []byte(w.stated)
	b[2*c], b[2*c+1] = byte(number>>8), byte(number)
	w.stated = string(b)
	return w
}

func (w world) with(pod int, bits byte) world {
	b := []byte(w.pods)
	b[pod] = bits
	w.pods = string(b)
	return w
}

// said is the statement of a cluster that is in force, nil if none is.
func (p *part) said(w world, c *cluster) *Statement {
	if n := w.statement(c.index); n > 0 {
		return c.statements[n-1].said
	}
	return nil
}

// count returns how many pods count, and how many the budget wants: the
// strictest of all bounds that are stated. Only clusters that state the budget take part.
func (p *part) count(w world) (counted, desired, expected int) {
	for _, c := range p.subject.clusters {
		if said := p.said(w, c); said != nil {
			expected += said.Expected
		}
	}
	for _, c := range p.subject.clusters {
		if said := p.said(w, c); said != nil {
			wanted, _ := said.Desired(expected) // validated with the event
			desired = max(desired, wanted)
		}
	}
	for i, pod := range p.pods {
		if w.pods[i] == isAvailable && p.said(w, pod.cluster) != nil {
			counted++
		}
	}
	return counted, desired, expected
}

// apply does an operation; right says whether the sequential specification has it.
func (p *part) apply(w world, op operation) (right bool, after world) {
	if op.what == state {
		return w.statement(op.cluster.index) == op.number-1, w.withStatement(op.cluster.index, op.number)
	}
	i := p.place[op.pod]
	bits := w.pods[i]
	switch op.what {
	case gain:
		return bits&isAvailable == 0, w.with(i, bits|isAvailable)
	case lose:
		return bits&isAvailable != 0, w.with(i, bits&^isAvailable)
	case lapse:
		return bits&isPermitted != 0, w.with(i, bits&^isPermitted)
	case permit:
		after = w.with(i, bits|isPermitted)
		if bits != isAvailable || p.said(w, op.pod.cluster) == nil {
			return true, after // it costs nothing
		}
		counted, desired, _ := p.count(after)
		return counted >= desired, after
	default:
		return false, w
	}
}

// model is the part as porcupine's sequential specification.
func (p *part) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return p.init },
		Step: func(state, input, _ any) (bool, any) { return p.apply(state.(world), input.(operation)) },
		DescribeOperation: func(input, _ any) string {
			return input.(operation).String()
		},
		DescribeState: func(state any) string {
			counted, desired, expected := p.count(state.(world))
			return fmt.Sprintf("%d of %d count, %d wanted", counted, expected, desired)
		},
	}
}

// history is the part in porcupine's terms. A pod's operations share a line in the picture.
func (p *part) history() []porcupine.Operation {
	lines := map[any]int{}
	all := make([]porcupine.Operation, 0, len(p.ops))
	for _, op := range p.ops {
		var of any = op.cluster
		if op.pod != nil {
			of = op.pod
		}
		if _, ok := lines[of]; !ok {
			lines[of] = len(lines)
		}
		all = append(all, porcupine.Operation{ClientId: lines[of], Input: op, Call: int64(op.Earliest), Return: int64(op.Latest)})
	}
	return all
}

// String says what the operation is, without its time.
func (op operation) String() string {
	switch op.what {
	case gain:
		return fmt.Sprintf("%s of %s became available", op.pod, op.pod.cluster.name)
	case lose:
		return fmt.Sprintf("%s of %s ceased to be available", op.pod, op.pod.cluster.name)
	case lapse:
		return fmt.Sprintf("permission on %s of %s lapsed", op.pod, op.pod.cluster.name)
	case permit:
		return fmt.Sprintf("disruption of %s of %s was allowed%s", op.pod, op.pod.cluster.name, op.permission.whom())
	case state:
		said := op.cluster.statements[op.number-1].said
		if said == nil {
			return op.cluster.name + " states no budget any longer"
		}
		return fmt.Sprintf("%s states %s, %d pods expected", op.cluster.name, said.Bound, said.Expected)
	default:
		return "invalid"
	}
}

func (g *permission) whom() string {
	var b strings.Builder
	if g.by.caller != "" {
		b.WriteString(" to " + g.by.caller)
	}
	if g.by.answer == Unknown {
		b.WriteString(" (the answer was lost, the pod ended)")
	}
	return b.String()
}
