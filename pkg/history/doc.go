// Package history judges what happened under a budget, from records alone.
//
// A run, of the simulation or of real clusters, records Events: what the
// clusters stated as their budget, which pods were available in truth, who
// asked for a disruption and what the answer was. Check reads nothing else and
// knows nothing of claims, tickets or kvstores, so it can convict a protocol
// that its own tests take for right.
//
// # Safety
//
// A pod counts while it is available and nobody was allowed to disrupt it.
// Allowing the disruption of a pod that counts is right if enough pods for the
// budget count without it, at one moment between the question and the answer
// (or the beginning of the pod's end, if that comes first). Pods that die by themselves may
// take the number as low as they like; nothing may be allowed on top of that.
//
// Requests overlap, so this is linearizability, and porcupine searches for an
// order: a permission is an operation from question to answer, what happens to
// pods and budgets are operations as well. A refusal is always right. An answer
// that was lost may have been a permission: if the pod then ended, it was one; if the pod was allowed
// to go later, the lost request may have been what took effect.
//
// # Time
//
// Nobody sees the moment at which something happened. Each Event carries the
// earliest and the latest one possible, and the check takes whichever is in
// favour of the accused. Options.Lag is what those who decide may not know yet: a death or a change of the
// budget counts only so long after it happened.
//
// For pods that nobody was allowed to disrupt meanwhile, the moment in favour is known without a search: the earliest at
// which the pod may have become available, the latest at which it may have
// ceased to be. More pods that count make no permission wrong. Only where a
// pod's own permission may lie on either side of its change the search tries both, which keeps it small. It is divided at
// quiet points, moments that no operation spans, after which all orders leave the
// same state behind; and it has a time limit. What it cannot finish is
// Undecided, which is never Held.
//
// # Completeness
//
// A disruption that nobody asked for makes a history Undecided: the recorder
// missed a caller, or somebody goes past the budget. What Kubernetes' own
// controllers and nodes end is recorded as Lost, and the end of a pod that was never available is none.
//
// # Usefulness
//
// A budget that refuses everything is safe. So the report also says how long budget lay idle while
// somebody asked and nobody was granted, and of n requests at the same time on k free slots in a
// quiet mesh how many were granted: min(n, k) is right. Neither is a violation unless Options.Idle asks for it.
package history
