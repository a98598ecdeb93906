// Package rules decides. Decide says what entries a command makes, or refuses it by name; Apply changes the state by one
// entry and nothing else does. Both are pure: integers and exact rationals only, no clock, network, randomness or map order.
//
// Invariants (numbered on from package ledger's):
//
//	R1  Decide never changes the state. A refusal leaves no trace.
//	R2  The state is a function of the entries applied, so a replay gives the same Digest.
//	R3  Apply trusts no entry: an entry that breaks an invariant is an error wrapping ErrBroken.
//	R4  Per book and epoch: minted + outstanding ≤ cap, and per issuer minted + outstanding ≤ allocation.
//	R5  Per task: outstanding = unclaimed open slots at the current credits + each open claim at its frozen credits.
//	R6  One claim per account, task and shift, whatever the version; one mint per claim.
//	R7  Σ balances = Σ mint − Σ burn − Σ expire, per book; no balance is negative; nothing moves between accounts.
//	R8  A month's flows are those of the entries since the month before was closed. Nothing changes a book after the end of
//	    its open month before that is closed, and what a closing says of stock and flow is what people hold.
//	R9  What the forgotten had is never more than a closing leaves beside all who are known.
//
// What is held beside the log, a claim that is not yet entered, lives in the state too, but apart: HoldClaim and DropClaim
// change it and Digest leaves it out.
package rules
