package budget

import (
	"fmt"
	"slices"
	"strings"
)

// describe says a decision in one sentence with its numbers. The wording is
// covered by the golden rows of the tests: operators and scripts read it.
func describe(q Question, d Decision, bounds []Bound) string {
	pod := q.Pod
	if pod == "" {
		pod = "a pod"
	}
	switch d.Reason {
	case Unbounded:
		return fmt.Sprintf("budget %s cannot be decided because no cluster that was read states its bound", q.Budget)
	case ClusterUnread:
		if !bounds[0].Absolute() || d.Left >= d.Desired {
			unread, _ := unread(q)
			return fmt.Sprintf("budget %s with %s cannot be decided without %s", q.Budget, relativeBound(bounds), unread)
		}
		unread, count := unread(q)
		return fmt.Sprintf("evicting %s would leave %s provably available, budget %s needs %d (%s), and %s %s as 0",
			pod, pods(d.Left), q.Budget, d.Desired, bounds[0], unread, count)
	case ViewsDiffer:
		return fmt.Sprintf("budget %s with %s cannot be decided while its clusters disagree on who takes part: %s", q.Budget, relativeBound(bounds), views(q))
	}
	if q.UID == "" && d.Available == 0 {
		return fmt.Sprintf("none of %d pods is available, budget %s needs %d (%s%s)", d.Expected, q.Budget, d.Desired, bounds[0], details(q))
	}
	verb := "would leave"
	if d.Verdict == Allow {
		verb = "leaves"
	}
	// The numbers first: terminals cut what comes late.
	return fmt.Sprintf("evicting %s %s %d of %d pods available, budget %s needs %d (%s%s)",
		pod, verb, d.Left, d.Expected, q.Budget, d.Desired, bounds[0], details(q))
}

func relativeBound(bounds []Bound) Bound {
	i := slices.IndexFunc(bounds, func(b Bound) bool { return !b.Absolute() })
	return bounds[max(i, 0)]
}

func pods(n int) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

// unread names the clusters that could not be read, with the verb in its number.
func unread(q Question) (clusters, count string) {
	var names []string
	for _, c := range q.Clusters {
		if c.Unread != "" {
			names = append(names, fmt.Sprintf("%s (%s)", c.Name, c.Unread))
		}
	}
	if len(names) == 1 {
		return "cluster " + names[0], "counts"
	}
	return "clusters " + strings.Join(few(names), ", "), "count"
}

// views names the clusters whose set of clusters differs from the decider's,
// and by what; a few of them, for there may be hundreds.
func views(q Question) string {
	names := make([]string, 0, len(q.Clusters))
	for _, c := range q.Clusters {
		names = append(names, c.Name)
	}
	var all []string
	for _, c := range q.Clusters {
		difference := append(only("leaves out", names, c.View), only("adds", c.View, names)...)
		if c.Unread == "" && len(difference) > 0 {
			all = append(all, c.Name+" "+strings.Join(difference, " and "))
		}
	}
	return strings.Join(few(all), ", ")
}

// only says which names stand in a and not in b, if any.
func only(verb string, a, b []string) []string {
	var missing []string
	for _, name := range a {
		if !slices.Contains(b, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []string{verb + " " + strings.Join(few(missing), " ")}
}

func few(all []string) []string {
	if len(all) <= manyClusters {
		return all
	}
	return append(all[:manyClusters:manyClusters], fmt.Sprintf("and %d more", len(all)-manyClusters))
}

// manyClusters is where a sentence stops naming the clusters in which nothing
// is missing.
const manyClusters = 8

// details lists available/expected and what is in flight or waiting, cluster by cluster.
func details(q Question) string {
	rows := make([]string, 0, min(len(q.Clusters), 2*manyClusters))
	complete := 0
	for _, c := range q.Clusters {
		row, whole := detail(c)
		if whole && len(q.Clusters) > manyClusters {
			complete++
			continue
		}
		rows = append(rows, row)
	}
	if complete > 0 {
		rows = append(rows, fmt.Sprintf("complete in %d more", complete))
	}
	if len(rows) == 0 {
		return ""
	}
	return "; " + strings.Join(rows, "; ")
}

// detail is one cluster's row, and whether nothing is missing there.
func detail(c Cluster) (row string, whole bool) {
	if c.Unread != "" {
		return fmt.Sprintf("%s not read: %s", c.Name, c.Unread), false
	}
	var available, inFlight, waiting, unexported int
	for _, p := range c.Pods {
		switch {
		case p.Claim == Granted || p.Terminating:
			inFlight++
		case p.Available:
			available++
			if p.Claim == PendingHigher || p.Claim == PendingLower {
				waiting++
			}
		case p.Unexported:
			unexported++
		}
	}
	whole = available >= c.Expected && inFlight == 0 && waiting == 0
	row = fmt.Sprintf("%s %d/%d", c.Name, available, c.Expected)
	if inFlight > 0 {
		row += fmt.Sprintf(", %d in flight", inFlight)
	}
	if waiting > 0 {
		row += fmt.Sprintf(", %d being decided", waiting)
	}
	if unexported > 0 {
		// Its cluster calls it available, so that whoever looks there must learn why it does not count.
		row += fmt.Sprintf(", %d not in Cilium's endpoints", unexported)
	}
	return row, whole
}
