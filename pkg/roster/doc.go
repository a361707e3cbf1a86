// Package roster is what each controller replica tells people of itself: which
// peers and kvstore instances it reaches and how fast, which certificates it
// lives by, whether it can decide. It is kept in one ConfigMap of the
// controller's namespace, an entry for each replica, for nobody else knows these things.
//
// `kubectl meshpdb doctor` reads it. No decision rests on it.
//
// The package holds the format and what may be concluded from its age; the
// controllers write it (package controller).
package roster
