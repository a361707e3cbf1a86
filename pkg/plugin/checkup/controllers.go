package checkup

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

const (
	// slow is the round trip to a kvstore from which on decisions are slow as well: they read every cluster once, within 2 s.
	slow = 500 * time.Millisecond
	// soon is how long before its end a certificate should have been renewed.
	soon = 7 * 24 * time.Hour
)

// notInstalled reports whether there is nothing of meshpdb at all: no controllers that report, no webhooks and no roles.
func (f Facts) notInstalled() bool {
	return f.RosterMissing && f.RosterErr == nil && f.WebhookErr == nil && f.Validating == nil && f.Mutating == nil && f.RBACErr == nil && f.ClusterRole == nil && f.Role == nil
}

// install is the one finding then. Each thing that is missing would have a fix of its own, of which some alone do harm:
// webhooks without controllers fail what they guard.
func (f Facts) install() Finding {
	return Finding{
		Level: Error, Check: Controllers,
		Message: fmt.Sprintf("meshpdb is not installed in context %s: no controller reports in namespace %s, and there are no webhooks and no roles of it; nothing else was examined", f.Context, f.Namespace),
		Fix:     "if this is the right context, " + f.apply("-k deploy"),
	}
}

// controllers examines what the replicas report of themselves, their peers, kvstores and certificates.
func (f Facts) controllers(passed map[Check]string) []Finding {
	where := fmt.Sprintf("ConfigMap %s/%s", f.Namespace, roster.ConfigMap)
	switch {
	case f.RosterErr != nil && len(f.Roster) == 0:
		return []Finding{unchecked(Controllers, f.RosterErr, fmt.Sprintf("have somebody allow you to get configmaps in %s, where the controllers report, and see: kubectl auth can-i get configmaps -n %s", f.Namespace, f.Namespace))}
	case f.RosterMissing || len(f.Roster) == 0:
		return []Finding{{
			Level: Error, Check: Controllers, Message: "no controller reports: " + where + " is empty or does not exist",
			Fix: fmt.Sprintf("if they run in another namespace, name it by --controller-namespace; else see why they do not: kubectl -n %s get pods -l app.kubernetes.io/name=meshpdb-controller", f.Namespace),
		}}
	}
	live := fresh(f)
	var all []Finding
	for _, r := range f.Roster {
		if r.IsStale(f.Now) {
			all = append(all, f.stale(r, len(live)))
		}
	}
	if len(live) == 0 {
		return all
	}
	all = append(all, f.readiness(live)...)
	all = append(all, f.stores(live)...)
	all = append(all, f.certificates(live)...)
	passed[Controllers] = fmt.Sprintf("%s of cluster %s reported that they can decide, the last at %s; version %s", replicas(len(live)), live[0].Cluster, f.ago(lastWritten(live)), live[0].Version)
	passed[Peers] = "every peer is read: " + tripsOf(live, func(r roster.Replica) []roster.Store { return r.Peers })
	passed[KVStore] = "every instance of this cluster's own kvstore is read: " + tripsOf(live, func(r roster.Replica) []roster.Store { return r.Instances })
	passed[Certificates] = "none ends before " + f.firstEnd(live)
	return all
}

func lastWritten(live []roster.Replica) time.Time {
	last := live[0].Written
	for _, r := range live {
		if r.Written.After(last) {
			last = r.Written
		}
	}
	return last
}

func (f Facts) stale(r roster.Replica, live int) Finding {
	finding := Finding{
		Level: Warning, Check: Controllers,
		Message: fmt.Sprintf("replica %s has reported nothing since %s: what it said is not to be trusted", r.Name, f.ago(r.Written)),
		Fix:     fmt.Sprintf("if it was replaced, this ends by itself within %s; else see: kubectl -n %s get pod %s", hold.Duration(roster.Forgotten), f.Namespace, r.Name),
	}
	if live == 0 {
		finding.Level = Error
		finding.Fix = fmt.Sprintf("no replica is left: kubectl -n %s get pods -l app.kubernetes.io/name=meshpdb-controller", f.Namespace)
	}
	return finding
}

func (f Facts) readiness(live []roster.Replica) []Finding {
	var all []Finding
	versions := map[string]string{}
	leader := false
	for _, r := range live {
		leader = leader || r.Leader
		versions[r.Version] = r.Name
		if r.NotReady != "" {
			all = append(all, Finding{
				Level: Error, Check: Controllers, Message: fmt.Sprintf("replica %s cannot decide: %s", r.Name, r.NotReady),
				Fix: fmt.Sprintf("mend that cause; its log may tell more: kubectl -n %s logs %s", f.Namespace, r.Name),
			})
		}
		if r.Problem != "" && r.Problem != r.NotReady {
			all = append(all, Finding{Level: Error, Check: KVStore, Message: fmt.Sprintf("replica %s has no own kvstore: %s", r.Name, r.Problem), Fix: "check ConfigMap meshpdb-kvstore, and Secret clustermesh-apiserver-admin-cert, which it mounts"})
		}
	}
	if !leader {
		all = append(all, Finding{
			Level: Error, Check: Controllers, Message: "no replica leads: nobody shows this cluster's pods to the mesh",
			Fix: fmt.Sprintf("if that lasts longer than 10s: kubectl -n %s get lease meshpdb-controller -o yaml", f.Namespace),
		})
	}
	if len(live) == 1 {
		all = append(all, Finding{
			Level: Warning, Check: Controllers, Message: fmt.Sprintf("only one replica runs, %s: while it restarts, evictions in namespaces with a budget fail", live[0].Name),
			Fix: fmt.Sprintf("kubectl -n %s scale deployment meshpdb-controller --replicas=2", f.Namespace),
		})
	}
	if len(versions) > 1 {
		all = append(all, Finding{Level: Warning, Check: Controllers, Message: "replicas of several versions run: " + listOf(versions), Fix: "wait for the rollout, or finish it"})
	}
	return all
}

// stores examines kvstores: what any live replica cannot read is told once.
func (f Facts) stores(live []roster.Replica) []Finding {
	var all []Finding
	look := func(check Check, of func(roster.Replica) []roster.Store, name, fix func(roster.Store) string) {
		told := map[string]bool{}
		for _, r := range live {
			for _, s := range of(r) {
				if told[s.Name] {
					continue
				}
				switch {
				case s.Message != "":
					told[s.Name] = true
					all = append(all, Finding{Level: Error, Check: check, Fix: fix(s), Message: fmt.Sprintf("%s cannot be read since %s: %s%s", name(s), f.ago(s.Since), s.Message, seenBy(live, r, of, s))})
				case s.RoundTrip > float64(slow.Milliseconds()):
					told[s.Name] = true
					all = append(all, Finding{
						Level: Warning, Check: check, Message: fmt.Sprintf("%s is slow: %.0f ms for one read by replica %s", name(s), s.RoundTrip, r.Name),
						Fix: "each permission waits for the slowest cluster: look at its load and at the path to it",
					})
				}
			}
		}
	}
	look(Peers, func(r roster.Replica) []roster.Store { return r.Peers },
		func(s roster.Store) string { return "peer " + s.Name },
		func(s roster.Store) string { return peerFix(s) })
	look(KVStore, func(r roster.Replica) []roster.Store { return r.Instances },
		func(s roster.Store) string { return "instance " + s.Name + " of the own kvstore" },
		func(s roster.Store) string {
			return fmt.Sprintf("start what serves %s, or take it out of the Service; see: kubectl -n %s get pods -l k8s-app=clustermesh-apiserver", s.Name, f.Namespace)
		})
	return all
}

// peerFix goes by the words of package mesh.
func peerFix(s roster.Store) string {
	switch {
	case strings.Contains(s.Message, "no meshpdb publishes"), strings.Contains(s.Message, "has not finished publishing"):
		return fmt.Sprintf("the kvstore of %s answers, its meshpdb does not: examine %s: kubectl meshpdb doctor --context %s", s.Name, s.Name, s.Name)
	case strings.Contains(s.Message, "certificate"):
		return fmt.Sprintf("renew the client certificate in Secret clustermesh-apiserver-remote-cert, or the authority that %s trusts", s.Name)
	case strings.Contains(s.Message, "permission denied"):
		return fmt.Sprintf("the certificate's user may not read cilium/state in %s: use the remote certificate of Cilium", s.Name)
	}
	return fmt.Sprintf("start clustermesh-apiserver in %s, or mend the path to it (cilium clustermesh status); if %s is gone for ever, see what forgetting it would change in this cluster (all that are left must do it): kubectl meshpdb forget %s -A", s.Name, s.Name, s.Name)
}

// seenBy says so if not all replicas see it the same way.
func seenBy(live []roster.Replica, by roster.Replica, of func(roster.Replica) []roster.Store, s roster.Store) string {
	for _, r := range live {
		if slices.ContainsFunc(of(r), func(o roster.Store) bool { return o.Name == s.Name && o.Message == "" }) {
			return fmt.Sprintf(" (by replica %s; %s reads it)", by.Name, r.Name)
		}
	}
	return ""
}

func (f Facts) certificates(live []roster.Replica) []Finding {
	var all []Finding
	told := map[string]bool{}
	for _, r := range live {
		for _, c := range r.Certificates {
			finding := Finding{Check: Certificates, Fix: certificateFix(c)}
			left := c.Expires.Sub(f.Now)
			switch {
			case c.Message != "":
				finding.Level, finding.Message = Error, fmt.Sprintf("the certificate of %s cannot be read: %s", c.Use, c.Message)
			case left <= 0:
				finding.Level, finding.Message = Error, fmt.Sprintf("the certificate of %s ended at %s", c.Use, f.ago(c.Expires))
			case left < soon:
				finding.Level, finding.Message = Warning, fmt.Sprintf("the certificate of %s ends in %s, at %s", c.Use, hold.Duration(left), c.Expires.UTC().Format(time.RFC3339))
			default:
				continue
			}
			if !told[finding.Message] {
				told[finding.Message] = true
				all = append(all, finding)
			}
		}
	}
	return all
}

func certificateFix(c roster.Certificate) string {
	switch {
	case c.Use == "webhook":
		return "cert-manager renews it: kubectl -n kube-system describe certificate meshpdb-webhook"
	case c.Use == "own kvstore":
		return "renew Secret clustermesh-apiserver-admin-cert, as Cilium was told to (its CronJob, cert-manager, or helm upgrade)"
	}
	return "renew Secret clustermesh-apiserver-remote-cert, as Cilium was told to (its CronJob, cert-manager, or helm upgrade)"
}

func (f Facts) firstEnd(live []roster.Replica) string {
	var first roster.Certificate
	for _, r := range live {
		for _, c := range r.Certificates {
			if !c.Expires.IsZero() && (first.Expires.IsZero() || c.Expires.Before(first.Expires)) {
				first = c
			}
		}
	}
	return fmt.Sprintf("%s (%s)", first.Expires.UTC().Format(time.DateOnly), first.Use)
}

// tripsOf lists the slowest round trip to each store.
func tripsOf(live []roster.Replica, of func(roster.Replica) []roster.Store) string {
	trips := map[string]float64{}
	for _, r := range live {
		for _, s := range of(r) {
			trips[s.Name] = max(trips[s.Name], s.RoundTrip)
		}
	}
	if len(trips) == 0 {
		return "there is none"
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(trips)) {
		words = append(words, fmt.Sprintf("%s %.1f ms", name, trips[name]))
	}
	return strings.Join(words, ", ")
}

func (f Facts) sinceText(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return " since " + f.ago(t.Time)
}

func (f Facts) ago(t time.Time) string { return hold.Ago(metav1.NewTime(t), f.Now) }

func replicas(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

// listOf lists versions, each with one who runs it.
func listOf(versions map[string]string) string {
	var words []string
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		words = append(words, fmt.Sprintf("%s (%s)", v, versions[v]))
	}
	return strings.Join(words, ", ")
}
