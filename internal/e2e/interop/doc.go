// Package interop runs the protocol's official TypeScript packages against a real city: @atproto/api as a client of our PDS, by every method that
// the PDS's README says is served,
// @atproto/oauth-client-node as an app that a person lets in on our pages,
// @atproto/sync on its firehose, @atproto/repo on what it exports, @atproto/lexicon and @atproto/lex-document on our schemas and records. What they accept, the rest of the
// network accepts. The scripts stand beside this file; their packages are pinned in package-lock.json and installed into .cache/interop.
// The reference PDS itself, @atproto/pds, runs beside the city: an account moves from there to us and on, by the methods of its clients.
// Tessera's client and fsck read the same city's log: they stand in a module of their own, internal/e2e/outside, so that nothing of them comes
// into the program; `make outside` runs them alone.
//
// The test needs Node 22 or newer and npm and has the build tag interop, so that `make test` does not; `make interop` runs it.
package interop
