package claim

import (
	"slices"
)

// breakage is one rule that the world's driver gets wrong, by the name of the
// counterexample in the protocol where it has one.
type breakage string

const (
	intact                 breakage = ""
	readBeforeWrite        breakage = "X01 clusters read before the claim is written"
	remoteFromCache        breakage = "X02 other clusters read from a watch cache"
	podsBeforeClaims       breakage = "X03 pods read before claims, no transaction"
	claimsNotRestored      breakage = "X04 claims not restored after a wipe"
	ignoreMarker           breakage = "X05 marker ignored"
	markerBeforeRecords    breakage = "X06 marker written before the records"
	incarnationUnguarded   breakage = "X07 writes not guarded by the incarnation"
	dropUnlisted           breakage = "X09 claim dropped when the pod is not listed"
	shownWhenUnready       breakage = "X11 claim dropped when an unready pod is terminating"
	dropAtEnd              breakage = "X12 claim dropped before the end is published"
	slowAPIServer          breakage = "X13 API server slower than T"
	listPodsFromCache      breakage = "X14 pods restored from an old list"
	invalidAsEmpty         breakage = "X15 failed read taken for the first snapshot"
	grantWithoutSwap       breakage = "X16 grant without compare-and-swap"
	reconcileByPod         breakage = "X17 reconciler deletes by pod"
	repeatWithoutSwap      breakage = "X19 repeated request answered from a read"
	ownPodsFromCache       breakage = "X20 own pods read from a cache"
	restoreFromCache       breakage = "X21 claims restored from a cache"
	releaseOnStaleLook     breakage = "X22 claim released after a stale look-up"
	writeOneInstance       breakage = "H04 claim written to one instance"
	registryBeforeClaim    breakage = "H05 registry read before the claim is durable"
	listBeforeRegister     breakage = "H06 instance lists before it registers"
	deregisterUnreachable  breakage = "H07 unreachable instance dropped from the registry"
	shownByOne             breakage = "H08 claim dropped when one instance shows the end"
	foreignViewsIgnored    breakage = "V03 views not compared"
	ownViewIgnored         breakage = "V04 own published view not compared"
	ownViewFromStore       breakage = "V09 own view read from one instance of the store"
	claimViewsIgnored      breakage = "V11 later claims ignored whatever view they were made under"
	unreachableLeftOut     breakage = "V08 unreachable cluster left out"
	ownSpecOnly            breakage = "B02 own bound only"
	boundForgotten         breakage = "B03 last known bound of an unread cluster forgotten"
	durableFirst           breakage = "X24 ledger read before the store"
	unmirrorRefused        breakage = "X25 claim deleted from stores although the ledger kept it"
	unmirrorUnacknowledged breakage = "X25 claim deleted from stores after an unacknowledged withdrawal"
)

// readInstance is the read of rule R3, or what a broken reader does.
func (r *run) readInstance(here func() bool, i *instance, got func(Snapshot)) {
	own, reachable := i.member == r.member, i.remote
	if own {
		reachable = i.local
	}
	fail := func() { got(Snapshot{Cluster: i.member.name, Invalid: "unreachable", Budgets: i.cached.Budgets}) }
	r.io(here, reachable, func() func() {
		s := i.snapshot()
		switch {
		case r.broken == remoteFromCache && !own && i.cached.Cluster != "":
			s = i.cached
		case r.broken == ownPodsFromCache && own && i.cached.Cluster != "":
			s.Budgets = i.cached.Budgets
		case r.broken == podsBeforeClaims:
			return func() {
				r.io(here, reachable, func() func() {
					later := i.snapshot()
					later.Budgets = s.Budgets
					return func() { got(later) }
				}, fail)
			}
		}
		return func() { got(s) }
	}, fail)
}

// distort is what a broken adapter makes of the snapshots before the Attempt sees them.
func (r *run) distort(snapshots []Snapshot) []Snapshot {
	own := slices.IndexFunc(snapshots, func(s Snapshot) bool { return s.Cluster == r.process.member.name })
	distorted := slices.Clone(snapshots)
	for at, s := range distorted {
		budgets := map[string]Report{}
		for name, report := range s.Budgets {
			switch {
			case r.broken == ownSpecOnly && at != own:
				report.Bounds = nil
			case r.broken == foreignViewsIgnored, r.broken == ownViewIgnored && at == own:
				report.View = r.attempt.Clusters()
			}
			budgets[name] = report
		}
		distorted[at].Budgets = budgets
		if s.Invalid == "" {
			if r.broken == claimViewsIgnored {
				distorted[at].Claims = slices.Clone(s.Claims)
				for i := range s.Claims {
					distorted[at].Claims[i].Budgets, distorted[at].Claims[i].Views = r.attempt.claim.Budgets, r.attempt.claim.Views
				}
			}
			continue
		}
		switch r.broken {
		case boundForgotten:
			distorted[at].Budgets = nil
		case invalidAsEmpty:
			distorted[at] = Snapshot{Cluster: s.Cluster}
		case unreachableLeftOut:
			distorted[at] = Snapshot{Cluster: s.Cluster, Budgets: map[string]Report{}}
			for b := range r.budgets {
				distorted[at].Budgets[budgetName(b)] = Report{View: r.attempt.Clusters()}
			}
		}
	}
	return distorted
}
