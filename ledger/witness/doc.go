// Package witness keeps a copy of a city's log, re-executes every entry of it and cosigns only what it re-executed. It is run
// by an institution that is not the operator: an issuer, a redeemer, a civic body.
//
// Invariants. Tests cite them by number.
//
//	W1  A checkpoint is cosigned only when each of its entries is in the copy and was re-executed without a finding.
//	W2  Of two checkpoints that are cosigned, the later one continues the earlier one; this holds through a crash at any point.
//	W3  Whatever the log signed against itself or its rules is kept as a proof that anybody can check without us, and from then on
//	    nothing is cosigned.
//	W4  The copy is tlog-tiles: any reader of such a log can read it, and a new operator can begin from it.
//	W5  Openings are asked for under our own key, are kept in the copy alone and are served to nobody. What the ledger erased goes
//	    from the copy too: before the entry that says so is re-executed, and with the day's digest where no entry does.
package witness
