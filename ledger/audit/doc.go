// Package audit checks a published log with code of its own: it shares the form of entries with the ledger, and nothing of
// its rules.
//
// Invariants:
//
//	A1  Every entry is checked from the leaf alone and what came before it; a finding never stops the replay.
//	A2  What a leaf does not show (whose claim it was, personal balances and limits) is not guessed at.
//	A3  CheckCauses believes an entry only what the records it cites say.
package audit
