package roster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	// ConfigMap is the name of the object, in the controllers' namespace.
	ConfigMap = "meshpdb-controller-status"
	// Interval is how often a replica tells the same again, so that its age means something.
	Interval = 10 * time.Second
	// Stale is the age from which on a replica has stopped telling.
	Stale = 3 * Interval
	// Forgotten is the age at which the others take an entry out: a replica that ends in order does so itself.
	Forgotten = 10 * time.Minute
)

// Replica is what one controller replica tells. Fields may be added; none
// changes its meaning or its name, since kubectl's plugin may be older or newer.
type Replica struct {
	// Name is the replica's pod.
	Name string `json:"name"`
	// Cluster is the Cilium name of the cluster that it serves.
	Cluster string `json:"cluster"`
	// Version of the controller.
	Version string `json:"version,omitempty"`
	// Written is when this was told, by the replica's clock.
	Written time.Time `json:"written"`
	// Started is when the process began.
	Started time.Time `json:"started,omitzero"`
	// Leader: it publishes, and writes the status of budgets.
	Leader bool `json:"leader,omitempty"`
	// NotReady says why it cannot decide; empty if it can.
	NotReady string `json:"notReady,omitempty"`
	// Peers are the other clusters of the mesh.
	Peers []Store `json:"peers,omitempty"`
	// Instances are those of the own kvstore.
	Instances []Store `json:"instances,omitempty"`
	// Problem says why there is no instance, if so.
	Problem string `json:"problem,omitempty"`
	// Certificates by which it is served and serves.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// Store is a kvstore as a replica sees it.
type Store struct {
	// Name of the peer, or host:port of the own instance.
	Name string `json:"name"`
	// Message says why it cannot be read; empty if it can.
	Message string `json:"message,omitempty"`
	// Since when that has been so.
	Since time.Time `json:"since,omitzero"`
	// RoundTrip of the last probe, in milliseconds; 0 if it never answered.
	RoundTrip float64 `json:"roundTripMilliseconds,omitempty"`
}

// Certificate is one that a replica uses.
type Certificate struct {
	// Use: "webhook", "own kvstore", or "peer NAME".
	Use string `json:"use"`
	// File that holds it, in the replica's file system.
	File string `json:"file"`
	// Expires is when it ends; zero if it cannot be read.
	Expires time.Time `json:"expires,omitzero"`
	// Message says why it cannot be read.
	Message string `json:"message,omitempty"`
}

// Age is how long ago the replica told this.
func (r Replica) Age(now time.Time) time.Duration { return now.Sub(r.Written) }

// IsStale reports whether the replica has stopped telling.
func (r Replica) IsStale(now time.Time) bool { return r.Age(now) > Stale }

// Same reports whether nothing but times of day and round trips differs: no
// reason to write before the interval has passed.
func (r Replica) Same(o Replica) bool {
	return plain(r) == plain(o)
}

func plain(r Replica) string {
	r.Written = time.Time{}
	r.Peers, r.Instances = steady(r.Peers), steady(r.Instances)
	text, err := yaml.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func steady(stores []Store) []Store {
	all := slices.Clone(stores)
	for i := range all {
		all[i].RoundTrip = 0
	}
	return all
}

// Put returns the ConfigMap's data with the entry of a replica, and without
// those that were forgotten.
func Put(data map[string]string, r Replica) (map[string]string, error) {
	if r.Name == "" {
		return nil, errors.New("a replica without a name cannot be told of")
	}
	text, err := yaml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode replica %s: %w", r.Name, err)
	}
	after := Remove(data, r.Name)
	for name, old := range after {
		// What cannot be read is no replica's of ours.
		if o, err := decode(name, old); err != nil || o.Age(r.Written) > Forgotten {
			delete(after, name)
		}
	}
	after[r.Name] = string(text)
	return after, nil
}

// Remove returns the ConfigMap's data without the entry of a replica.
func Remove(data map[string]string, name string) map[string]string {
	after := maps.Clone(data)
	if after == nil {
		after = map[string]string{}
	}
	delete(after, name)
	return after
}

// Read returns the replicas by name. The error names the entries that cannot be read.
func Read(data map[string]string) ([]Replica, error) {
	var all []Replica
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(data)) {
		r, err := decode(name, data[name])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(problems...)
}

func decode(name, text string) (Replica, error) {
	var r Replica
	if err := yaml.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("decode entry %s: %s", name, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if r.Name != name || r.Written.IsZero() {
		return r, fmt.Errorf("decode entry %s: it names replica %q, written %s", name, r.Name, r.Written.UTC().Format(time.RFC3339))
	}
	return r, nil
}
