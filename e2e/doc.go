// Package e2e tests meshpdb on a real mesh: three clusters, two controllers in
// each, started once for all tests of the package (see package sandbox).
package e2e
