package simulation

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// informer is what one process has heard of its cluster: always true once, and
// in order, but late.
type informer struct {
	mu sync.Mutex
	// heard is how many sightings, specs and ledgers have arrived.
	sightings, specs, ledgers int
	pods                      map[string]sighting
	// ended are the pods that it has heard to end.
	ended    map[string]bool
	versions []spec
	ledger   *v1alpha1.DisruptionLedger
	busy     bool
}

// longestLag is how far an informer falls behind at most, while its process runs. The judge gives a change of a
// budget publicationLag to become known, and its cluster can only tell of what it has heard itself.
const longestLag = publicationLag / 2

// informSoon lets the process hear of what is new.
func (p *process) informSoon() {
	in := &p.informer
	if in.busy || p.isDead() {
		return
	}
	in.busy = true
	w := p.world
	delay := min(w.delay(w.InformerLag), longestLag)
	if hung := p.hungUntil - w.now(); hung > 0 {
		delay += hung
	}
	w.later(delay, p.name+" hears from its informers", func() {
		in.busy = false
		if p.isDead() {
			return
		}
		c := p.cluster
		// Each kind has a watch of its own.
		sightings, specs, ledgers := p.some(in.sightings, len(c.sightings)), p.some(in.specs, len(c.specs)), p.some(in.ledgers, len(c.ledgers))
		p.hear(sightings, specs, ledgers)
		if sightings < len(c.sightings) || specs < len(c.specs) || ledgers < len(c.ledgers) {
			p.informSoon()
		}
	})
}

// some returns how far a watch has come that was at from, of all.
func (p *process) some(from, all int) int {
	if p.world.rand.IntN(3) > 0 || from >= all {
		return all
	}
	return from + p.world.rand.IntN(all-from+1)
}

func (p *process) hear(sightings, specs, ledgers int) {
	in, c := &p.informer, p.cluster
	in.mu.Lock()
	for ; in.sightings < sightings; in.sightings++ {
		in.take(c.sightings[in.sightings])
	}
	in.specs, in.versions = specs, c.specs[:specs]
	if in.ledgers = ledgers; ledgers > 0 {
		in.ledger = c.ledgers[ledgers-1]
	}
	in.mu.Unlock()
	p.kick()
}

func (in *informer) take(s sighting) {
	if s.gone || s.terminating {
		in.ended[s.pod.uid] = true
	}
	if !s.gone {
		in.pods[s.pod.name] = s
	} else if in.pods[s.pod.name].pod == s.pod {
		delete(in.pods, s.pod.name)
	}
}

// list is what informers begin with. The API server answers version 0, which
// client-go asks for, from a watch cache that may be behind, and what is asked
// without a version by what is durable.
func (p *process) list() {
	c, behind := p.cluster, p.world.rand.IntN(3) == 0
	p.informer.pods, p.informer.ended = map[string]sighting{}, map[string]bool{}
	from := func(all int) int {
		cached := all
		if behind && all > 0 {
			cached = max(min(all, 1), all-p.world.rand.IntN(min(all, 8)))
		}
		listed := 0
		first := p.lists(&cache.ListWatch{ListWithContextFunc: func(_ context.Context, options metav1.ListOptions) (runtime.Object, error) {
			switch options.ResourceVersion {
			case "0":
				listed = cached
			case "":
				listed = all
			}
			return &metav1.List{}, nil
		}})
		_, err := cache.ToListerWithContext(first).ListWithContext(p.ctx, metav1.ListOptions{ResourceVersion: "0"})
		must(err)
		return listed
	}
	p.hear(from(len(c.sightings)), from(len(c.specs)), from(len(c.ledgers)))
	p.informSoon()
}

// informed returns the ledger as the informer shows it.
func (p *process) informed(string) *v1alpha1.DisruptionLedger {
	p.informer.mu.Lock()
	defer p.informer.mu.Unlock()
	return p.informer.ledger
}

// informedLedgers reads the ledgers from the informer.
type informedLedgers struct {
	client.Reader
	process *process
}

// List implements client.Reader.
func (i informedLedgers) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	if l := i.process.informed(namespace); l != nil {
		into.(*v1alpha1.DisruptionLedgerList).Items = []v1alpha1.DisruptionLedger{*l.DeepCopy()}
	}
	return nil
}
