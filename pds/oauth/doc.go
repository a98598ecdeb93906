// Package oauth is the authorization server of a PDS, as atproto profiles it: pushed requests, PKCE, DPoP, clients named by
// the URL of their metadata. It knows no page: whoever asks the account's owner calls Pending, then Grant or Refuse.
//
// What must hold:
//
//   - O1: nothing is asked of an owner that was not pushed before by a client that is known, with the key it is bound to.
//   - O2: a DPoP proof works once, for one request, under a nonce of ours that is at most three minutes old. Nonces come from
//     a secret that all processes on one database share, with a salt beside the memory of used proofs: where a crash takes
//     that memory, it takes the salt too, and with it every nonce under which a forgotten proof could come again.
//   - O3: a code works once. Used again, it ends the session that came of it.
//   - O4: a refresh token works once, save that within the grace it gives the same next generation again. Used later, it ends
//     its session, and so it does with a key or a client other than its own.
//   - O5: nothing that stands in the database opens anything: codes are hashed, and tokens are signed with a secret that is
//     not there.
//   - O6: an access token is as good as its session's row, which every request reads: what is ended is over at once.
//   - O7: whatever a stranger sends is bounded before it is read, and no URL of a client is fetched before a proof was checked.
package oauth
