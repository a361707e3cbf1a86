// Package drainplan says what drains of nodes in several clusters of a mesh
// would do: which pods would go at once, and which would wait, for what.
//
// Budgets are counted once for all clusters, as the mesh counts them. The
// package is pure; pods come in as kubectl drain's own filters left them.
package drainplan
