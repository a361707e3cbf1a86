// Package controller keeps budgets true in the own cluster: it publishes this
// cluster's part in each, labels the namespaces that the webhooks select,
// writes status, and turns annotated global Services into budgets.
//
// Only the leader of a cluster's controllers reconciles. Each reconcile
// computes everything from the informers and the cached views, and applies
// what differs; nothing is remembered that is not in the API or the kvstore.
package controller
