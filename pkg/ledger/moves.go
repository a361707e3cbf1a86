package ledger

import (
	"context"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Append makes a claim durable (R2), or finds that it repeats one (R8).
func (l *Ledgers) Append(ctx context.Context, c claim.Claim, seen uint64) (claim.Claim, claim.Asked, error) {
	var stands claim.Claim
	var asked claim.Asked
	err := l.Do(ctx, c.Namespace, func(ledger *claim.Ledger) bool {
		stands, asked = ledger.Append(c, seen)
		return asked != claim.Undecided
	})
	if err != nil {
		// The move may still run; its results must not be read.
		return claim.Claim{}, 0, err
	}
	return stands, asked, nil
}

// Grant makes a pending claim a granted one (R6).
func (l *Ledgers) Grant(ctx context.Context, c claim.Claim) (bool, error) {
	var granted bool
	err := l.Do(ctx, c.Namespace, func(ledger *claim.Ledger) bool {
		granted = ledger.Grant(c.ID)
		return granted
	})
	if err != nil {
		return false, err
	}
	return granted, nil
}

// Withdraw removes a pending claim (R7). False: it was granted meanwhile, or
// is not there; then its records in the stores must stay.
func (l *Ledgers) Withdraw(ctx context.Context, c claim.Claim) (bool, error) {
	return l.remove(ctx, c, func(ledger *claim.Ledger) bool { return ledger.Withdraw(c.ID) })
}

// Release removes a granted claim that came to nothing (R10). False: it was
// asked for again.
func (l *Ledgers) Release(ctx context.Context, c claim.Claim) (bool, error) {
	return l.remove(ctx, c, func(ledger *claim.Ledger) bool { return ledger.Release(c.ID, c.Seq) })
}

// Drop removes the claim of a pod whose end all instances show (R9).
func (l *Ledgers) Drop(ctx context.Context, c claim.Claim) (bool, error) {
	return l.remove(ctx, c, func(ledger *claim.Ledger) bool { return ledger.Drop(c.ID) })
}

func (l *Ledgers) remove(ctx context.Context, c claim.Claim, move Move) (bool, error) {
	var removed bool
	err := l.Do(ctx, c.Namespace, func(ledger *claim.Ledger) bool {
		removed = move(ledger)
		return removed
	})
	if err != nil {
		return false, err
	}
	return removed, nil
}
