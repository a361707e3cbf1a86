package workload

// endsRemembered bounds the memory of pods that have ended, to some 200 KiB. Who asks does so within seconds, of pods
// whose disruption was claimed; beyond it he asks the API server.
const endsRemembered = 2048

// ends are the UIDs of the pods that a watch has seen end last. The zero value is empty.
type ends struct {
	known map[string]struct{}
	// order is a ring of those that are known, oldest at next once it is full.
	order []string
	next  int
}

func (e *ends) has(uid string) bool {
	_, known := e.known[uid]
	return known
}

func (e *ends) remember(uid string) {
	if e.has(uid) {
		return
	}
	if e.known == nil {
		e.known = map[string]struct{}{}
	}
	e.known[uid] = struct{}{}
	if len(e.order) < endsRemembered {
		e.order = append(e.order, uid)
		return
	}
	delete(e.known, e.order[e.next])
	e.order[e.next] = uid
	e.next = (e.next + 1) % endsRemembered
}
