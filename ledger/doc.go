// Package ledger is a city's ledger: one append-only log, the rules that decide what may enter it, and the service that
// writes it, serves it and answers for it. There is no second store to reconcile: leaf = canonical entry bytes, index =
// sequence number.
//
// Its parts: entry (what a leaf is), rules (what may happen), tlog (the tree and its public forms) and audit (the same log
// checked by other code) are pure; this package has the sequencer, the intake from the firehose and the doors.
//
// Invariants. Tests cite them by number.
//
//	L1   Leaf i of the tree is the canonical encoding of entry i; nothing is edited, inserted or deleted.
//	L2   The state is what the entries and their openings give when applied in order; balances, caps and slots in tables
//	     are copies and second guards. A command that asks the tables sees in them what it sees in the state.
//	L3   Entries, guards, tree nodes, size and root of a batch are written in one transaction, batches in their order. While
//	     one commits the next is built in memory, and a full one is sent behind it: it falls with it, by the head that each
//	     wants to find. Nobody is answered before the commit, and memory never runs ahead of the database and lives: a
//	     commit that is not known to have happened ends the process, with all that was built or sent on it.
//	L4   One writer: a process with an older term writes nothing.
//	L5   A checkpoint is given out only for a root read back after its commit, and each is consistent with the one before. A
//	     signer that remembers, or is not in this process, signs nothing else either.
//	L6   A mint has two sources: a signed verification in the repository of the issuer, or of an organization that its
//	     accreditation names, and room under the cap.
//	L7   Per book and epoch minted + outstanding ≤ cap; per issuer minted + outstanding ≤ allocation.
//	L8   One claim per account, task and shift, whatever version; one mint per claim; at its frozen terms.
//	L9   Votes = amount × votesPerCredit of the epoch's parameters; nobody chooses them.
//	L10  Credits never move between accounts: Σ balances = Σ mint − Σ burn − Σ expire, and no balance is negative.
//	L11  A code is used once, before its time is up; check and burn are one act.
//	L12  No DID of a resident, no account and no time of a person's act stands in a leaf; the sealed part is committed to
//	     with fresh salts, and deleting the opening forgets it.
//	L13  Claims enter the log in one batch a shift, sorted by nullifier.
//	L14  A refusal leaves the log as it was; it has a name and figures, and explain repeats them.
//	L15  A broken invariant stops the process; it is never answered as a refusal.
//	L16  What a redemption took is given back at most once, whole and at the same redeemer; a hold is captured or ends, not
//	     both. Every way to redeem holds the same conditions.
//	L17  No PIN, card number or code stands in a table or in the log, and none can be tried against a table without the work
//	     of its hash. A till whose PIN is not known redeems nothing.
package ledger
