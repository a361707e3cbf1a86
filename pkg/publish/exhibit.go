package publish

import (
	"reflect"
	"slices"
	"strings"

	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// exhibit is a part as it is shown: states[i] stands for the availability of
// Pods[i]. Values are made from it when they are written; to keep them would
// take more memory than all else that is known of a pod.
type exhibit struct {
	Part
	states []wire.Unavailability
}

// ref names one record of a part; that of the budget itself has no UID.
type ref struct{ part, uid string }

func (p Part) id() string { return p.Namespace + "/" + p.Name }

// exhibit withholds the pods that must not be shown as available. It needs p.mu.
func (p *Publisher) exhibit(part Part) *exhibit {
	e := &exhibit{Part: part, states: make([]wire.Unavailability, len(part.Pods))}
	for i, pod := range part.Pods {
		e.states[i] = pod.Unavailable
		if _, ended := p.ended[pod.UID]; ended {
			e.states[i] = wire.Terminating
		} else if pod.Unavailable == wire.Available && !p.verified[pod.UID] {
			e.states[i] = wire.NotReady
		}
	}
	return e
}

// show replaces a part; nil removes it. It needs p.mu.
func (p *Publisher) show(id string, fresh *exhibit) {
	changed := differences(id, p.parts[id], fresh)
	if fresh == nil {
		delete(p.parts, id)
	} else {
		// Even if nothing changes that is shown, what is withheld may have.
		p.parts[id] = fresh
	}
	if len(changed) == 0 {
		return
	}
	p.generation++
	for _, state := range p.instances {
		for _, r := range changed {
			state.dirty[r] = struct{}{}
		}
		state.poke()
	}
}

// differences names the records that differ; nil stands for none at all.
func differences(id string, old, fresh *exhibit) []ref {
	if old == nil {
		old = &exhibit{}
	}
	if fresh == nil {
		fresh = &exhibit{}
	}
	var changed []ref
	if !reflect.DeepEqual(old.Budget, fresh.Budget) {
		changed = append(changed, ref{part: id})
	}
	if old.sameOrder(fresh) {
		for i := range fresh.Pods {
			if !old.sameAt(i, fresh, i) {
				changed = append(changed, ref{id, fresh.Pods[i].UID})
			}
		}
		return changed
	}
	before := make(map[string]int, len(old.Pods))
	for i := range old.Pods {
		before[old.Pods[i].UID] = i
	}
	for i := range fresh.Pods {
		uid := fresh.Pods[i].UID
		if j, stood := before[uid]; !stood || !old.sameAt(j, fresh, i) {
			changed = append(changed, ref{id, uid})
		}
		delete(before, uid)
	}
	for uid := range before {
		changed = append(changed, ref{id, uid})
	}
	return changed
}

func (e *exhibit) sameOrder(other *exhibit) bool {
	return slices.EqualFunc(e.Pods, other.Pods, func(a, b wire.Pod) bool { return a.UID == b.UID })
}

// sameAt reports whether two records of a pod need not be told apart. Nobody asks
// for the addresses of a pod that is not available: they come with its availability.
func (e *exhibit) sameAt(i int, other *exhibit, j int) bool {
	a, b := &e.Pods[i], &other.Pods[j]
	return e.states[i] == other.states[j] && a.Name == b.Name && (e.states[i] != wire.Available || slices.Equal(a.IPs, b.IPs))
}

// changes makes the values of records, empty for those that are not shown any
// more. It needs p.mu.
func (p *Publisher) changes(refs []ref) []mesh.Change {
	wanted := map[string]map[string]struct{}{}
	for _, r := range refs {
		if wanted[r.part] == nil {
			wanted[r.part] = map[string]struct{}{}
		}
		wanted[r.part][r.uid] = struct{}{}
	}
	var changes []mesh.Change
	for id, uids := range wanted {
		if e := p.parts[id]; e != nil {
			if _, asked := uids[""]; asked {
				delete(uids, "")
				changes = append(changes, p.change(id, "", &e.Budget))
			}
			for i := range e.Pods {
				if _, asked := uids[e.Pods[i].UID]; asked {
					delete(uids, e.Pods[i].UID)
					changes = append(changes, p.change(id, e.Pods[i].UID, e.pod(i)))
				}
			}
		}
		for uid := range uids {
			changes = append(changes, mesh.Change{Key: p.key(id, uid)})
		}
	}
	return changes
}

func (e *exhibit) pod(i int) *wire.Pod {
	pod := e.Pods[i]
	pod.Unavailable = e.states[i]
	return &pod
}

// change shows a record; one that cannot be encoded is not shown.
func (p *Publisher) change(id, uid string, record wire.Record) mesh.Change {
	value, err := wire.Marshal(record)
	if err != nil {
		p.config.Log.Error(err, "publish record", "budget", id, "pod", uid)
	}
	return mesh.Change{Key: p.key(id, uid), Value: string(value)}
}

func (p *Publisher) key(id, uid string) string {
	namespace, name, _ := strings.Cut(id, "/")
	kind := wire.KindPod
	if uid == "" {
		kind = wire.KindBudget
	}
	return wire.Key{Kind: kind, Cluster: p.config.Cluster, Namespace: namespace, Budget: name, ID: uid}.String()
}
