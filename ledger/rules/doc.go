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
//	R7  Σ balances = Σ mint − Σ burn, per book; no balance is negative; nothing moves between accounts.
//
// What is held beside the log, a claim that is not yet entered, lives in the state too, but apart: HoldClaim and DropClaim
// change it and Digest leaves it out.
package rules
