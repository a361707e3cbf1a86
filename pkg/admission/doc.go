// Package admission meets the requests by which Kubernetes disrupts pods:
// CREATE of pods/eviction and DELETE of pods. It decides who asks and whether
// the request disrupts anything, and leaves the budget to a Decider.
//
// A refusal is always HTTP 429, reason TooManyRequests, with a cause
// DisruptionBudget, as the eviction API itself refuses: kubectl drain and the
// autoscalers try again. What cannot be decided is refused the same way.
//
// Beside them, Intents meets the deletion of what pods live by (nodes,
// namespaces, owners), where a budget can still warn of it or refuse it, and
// what cannot be told is admitted.
package admission
