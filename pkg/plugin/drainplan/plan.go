package drainplan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

// Pod is one that a drain would evict.
type Pod struct {
	// Context that reaches its cluster, for people.
	Context   string `json:"context"`
	Node      string `json:"node"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Ready, and not terminating: its going costs its budgets something.
	Ready bool `json:"ready"`
	// Free, if not empty, says why nothing holds it: it terminates, or has finished, or never started.
	Free string `json:"-"`
	// Budgets that cover it, by namespace/name; those that hold it in its cluster.
	Budgets []string `json:"budgets,omitempty"`
	// Suspended are those that cover it and are suspended in its cluster.
	Suspended []string `json:"suspended,omitempty"`
	// Native are the PodDisruptionBudgets of its cluster that select it.
	Native []string `json:"podDisruptionBudgets,omitempty"`
	// AlwaysAllow: all of its budgets let pods go that are not ready.
	AlwaysAllow bool `json:"-"`
}

// Native is a PodDisruptionBudget of one cluster.
type Native struct {
	// Context and namespace/name.
	Context, Name string
	// Allowed, Healthy, Desired and Expected as its status says.
	Allowed, Healthy, Desired, Expected int32
	// Since is when it began to allow something, or nothing; none if its status does not tell.
	Since *metav1.Time
	// Frees says what would let it allow something again.
	Frees string
}

func allowsNothing(since *metav1.Time, now time.Time) string {
	if since == nil {
		return ""
	}
	return "it allows nothing since " + hold.Ago(*since, now)
}

// Question is what a plan is made of.
type Question struct {
	Pods []Pod
	// Budgets of the mesh by namespace/name, of all contexts as one: see Merge.
	Budgets map[string]hold.Report
	Natives []Native
	// Now puts times on the clock.
	Now time.Time
}

// Turn is when a pod would go.
type Turn string

// Turns.
const (
	// AtOnce: nothing holds it.
	AtOnce Turn = "AtOnce"
	// Later: after others that go first, once their successors are ready.
	Later Turn = "Later"
	// Blocked: its budget allows nothing now, whoever asks.
	Blocked Turn = "Blocked"
	// Never: its budget can never allow it as it is.
	Never Turn = "Never"
)

// Step is what becomes of one pod.
type Step struct {
	Pod
	Turn Turn `json:"turn"`
	// Round in which it goes: 1 is at once; each further one waits for the successors of the one before. 0 if it is not known.
	Round int `json:"round,omitempty"`
	// WaitsFor says what it waits for, or why it may go.
	WaitsFor string `json:"waitsFor,omitempty"`
	// Holder is the budget or PodDisruptionBudget that blocks it, and Frees what would end that.
	Holder string `json:"holder,omitempty"`
	Frees  string `json:"frees,omitempty"`
	// See is the command that shows the holder.
	See string `json:"see,omitempty"`
}

// Plan is the answer.
type Plan struct {
	Steps []Step `json:"steps"`
	// Counts by turn.
	AtOnce  int `json:"atOnce"`
	Later   int `json:"later"`
	Blocked int `json:"blocked"`
	Never   int `json:"never"`
	// Rounds that it takes, if nothing else happens; 0 if something is blocked.
	Rounds int `json:"rounds,omitempty"`
}

// Make plans. Who goes first among pods of one budget is decided when they ask;
// the plan takes them by context, node and name.
func Make(q Question) Plan {
	pods := slices.Clone(q.Pods)
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	p := planner{question: q, spent: map[string]map[int]int32{}}
	var plan Plan
	for _, pod := range pods {
		step := p.step(pod)
		switch step.Turn {
		case AtOnce:
			plan.AtOnce++
		case Later:
			plan.Later++
		case Blocked:
			plan.Blocked++
		case Never:
			plan.Never++
		}
		plan.Rounds = max(plan.Rounds, step.Round)
		plan.Steps = append(plan.Steps, step)
	}
	if plan.Blocked+plan.Never > 0 {
		plan.Rounds = 0
	}
	return plan
}

type planner struct {
	question Question
	// spent is what each holder has given away, by round.
	spent map[string]map[int]int32
}

// limit is one holder of a pod: a budget of the mesh, or a native one.
type limit struct {
	key string
	// now is what it allows in the first round, each what it allows in later ones.
	now, each int32
	// words say who it is and what it needs.
	words string
	// never: it can never allow anything; held says who holds it back since when, frees what would end that.
	never bool
	// since says when it began to allow nothing, if that is known.
	name               string
	held, frees, since string
	// see is the command that shows it.
	see string
}

func (p *planner) step(pod Pod) Step {
	step := Step{Pod: pod, Turn: AtOnce, Round: 1}
	switch {
	case pod.Free != "":
		step.WaitsFor = "nothing: " + pod.Free
		return step
	case len(pod.Native) > 1:
		step.Turn, step.Round = Never, 0
		step.WaitsFor = fmt.Sprintf("nothing that comes: it has more than one PodDisruptionBudget (%s and %s), which the eviction API does not support", pod.Native[0], pod.Native[1])
		return step
	}
	limits := p.limits(pod)
	if !pod.Ready {
		return p.unready(step)
	}
	if len(limits) == 0 {
		step.WaitsFor = uncovered(pod)
		return step
	}
	for _, l := range limits {
		if l.never {
			step.Turn, step.Round, step.WaitsFor, step.Holder, step.Frees, step.See = Never, 0, joined(l.held+": it can never allow it", l.since), l.name, l.frees, l.see
			return step
		}
	}
	for _, l := range limits {
		if l.now <= 0 {
			step.Turn, step.Round, step.WaitsFor, step.Holder, step.Frees, step.See = Blocked, 0, joined(l.words, l.held), l.name, l.frees, l.see
			return step
		}
	}
	step.Round = p.round(limits)
	if step.Round > 1 {
		step.Turn = Later
		step.WaitsFor = p.full(limits, step.Round-1)
	}
	for _, l := range limits {
		if p.spent[l.key] == nil {
			p.spent[l.key] = map[int]int32{}
		}
		p.spent[l.key][step.Round]++
	}
	return step
}

// round is the first one in which every holder has something left.
func (p *planner) round(limits []limit) int {
	for round := 1; ; round++ {
		if !slices.ContainsFunc(limits, func(l limit) bool { return p.spent[l.key][round] >= l.in(round) }) {
			return round
		}
	}
}

func (l limit) in(round int) int32 {
	if round == 1 {
		return l.now
	}
	return max(l.each, l.now)
}

// full names the holder that had nothing left in a round, and how many it lets go first, in all rounds before.
func (p *planner) full(limits []limit, round int) string {
	for _, l := range limits {
		if p.spent[l.key][round] >= l.in(round) {
			var first int32
			for before := 1; before <= round; before++ {
				first += p.spent[l.key][before]
			}
			return fmt.Sprintf("%s: %s", others(first), l.words)
		}
	}
	return ""
}

func others(n int32) string {
	if n == 1 {
		return "once the successor of 1 other pod is Ready"
	}
	return fmt.Sprintf("once the successors of %d other pods are Ready", n)
}

// unready pods cost nothing: with AlwaysAllow they go, else while each budget is met without them.
func (p *planner) unready(step Step) Step {
	step.WaitsFor = "nothing: it is not ready, so it costs no budget"
	if step.AlwaysAllow {
		return step
	}
	for _, name := range step.Budgets {
		if r := p.question.Budgets[name]; r.Available < r.Desired {
			step.Turn, step.Round, step.Holder, step.Frees, step.See = Blocked, 0, "budget "+name, r.Frees(), step.see("meshpdb status", name)
			step.WaitsFor = fmt.Sprintf("it is not ready, and budget %s is not met: %d available, it needs %d", name, r.Available, r.Desired)
			step.WaitsFor = joined(step.WaitsFor, p.held(r))
		}
	}
	return step
}

func (p *planner) limits(pod Pod) []limit {
	var all []limit
	for _, name := range pod.Budgets {
		r := p.question.Budgets[name]
		l := limit{key: name, name: "budget " + name, see: pod.see("meshpdb status", name), held: p.held(r), frees: r.Frees(), now: r.Allowed, each: max(r.Expected-r.Desired, 0), words: fmt.Sprintf("budget %s allows %d now: %s, it needs %d (%s)", name, r.Allowed, r.Counted(), r.Desired, r.Bound)}
		for _, h := range r.HeldBackBy {
			if h.Reason == hold.Never {
				l.never, l.held, l.frees, l.since = true, h.Sentence, h.Frees, allowsNothing(r.Since, p.question.Now)
				break
			}
		}
		all = append(all, l)
	}
	for _, name := range pod.Native {
		for _, n := range p.question.Natives {
			if n.Context == pod.Context && n.Name == name {
				all = append(all, limit{
					key: "native " + n.Context + " " + n.Name, name: fmt.Sprintf("PodDisruptionBudget %s of %s", n.Name, n.Context), now: n.Allowed, each: max(n.Allowed, 1),
					words: fmt.Sprintf("PodDisruptionBudget %s of %s allows %d now: it needs %d healthy pods and has %d of %d", n.Name, n.Context, n.Allowed, n.Desired, n.Healthy, n.Expected),
					see:   pod.see("describe poddisruptionbudget", name),
					held:  allowsNothing(n.Since, p.question.Now),
					frees: cmp.Or(n.Frees, "more healthy pods"),
				})
			}
		}
	}
	return all
}

// see is a command about a holder by its namespace/name, in the pod's cluster.
func (p Pod) see(verb, holder string) string {
	namespace, name, _ := strings.Cut(holder, "/")
	command := fmt.Sprintf("kubectl %s %s -n %s", verb, name, namespace)
	if p.Context != "" {
		command += " --context " + p.Context
	}
	return command
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// held says of each holder of a budget since when.
func (p *planner) held(r hold.Report) string {
	var all []string
	for _, h := range r.HeldBackBy {
		all = append(all, h.Said(p.question.Now))
	}
	return joined(all...)
}

func uncovered(pod Pod) string {
	if len(pod.Suspended) > 0 {
		return fmt.Sprintf("nothing: budget %s is suspended in this cluster", pod.Suspended[0])
	}
	return "nothing: no budget covers it"
}

// Merge makes one report of what several clusters say of one budget: the
// strictest, for that is what counts.
func Merge(reports []hold.Report) map[string]hold.Report {
	all := map[string]hold.Report{}
	for _, r := range reports {
		if old, known := all[r.FullName()]; !known || r.Allowed < old.Allowed {
			all[r.FullName()] = r
		}
	}
	return all
}
