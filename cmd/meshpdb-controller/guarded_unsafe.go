//go:build meshpdb_unsafe_noclaims

package main

import (
	"context"

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
)

// guarded takes the claims out: every decision reads all clusters afresh and
// reserves nothing. It exists for the one test that shows what claims are for,
// and is in no other build.
func guarded(d *decide.Decider) admission.Decider { return unclaimed{d} }

type unclaimed struct{ *decide.Decider }

func (u unclaimed) Decide(ctx context.Context, r decide.Request) claim.Outcome {
	r.DryRun = true
	return u.Decider.Decide(ctx, r)
}
