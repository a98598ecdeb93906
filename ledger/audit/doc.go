// Package audit checks a published log with code of its own: it shares the form of entries with the ledger, and nothing of
// its rules.
//
// Invariants:
//
//	A1  Every entry is checked from the leaf alone and what came before it; a finding never stops the replay.
//	A2  What a leaf does not show (whose claim it was, personal balances and limits) is not guessed at.
//	A3  CheckCauses believes an entry only what the records it cites say.
//	A4  With the openings (AddSealed) every act is somebody's: balances, limits of a person, dormancy, expiry and the roots of the
//	    balances are re-executed. Of those who were forgotten only what nobody else has is known, and it bounds them.
//	A5  Caps, rates, flows and digests are recomputed over integers, from the parameters and the entries alone.
package audit
