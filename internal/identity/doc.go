// Package identity resolves DIDs and speaks did:plc: operations, their audit log, and the directory's HTTP API.
//
// Invariants:
//
//	I1. An identity is used only if its document names the DID that was asked for, and only keys and services
//	    that the document declares under that DID count.
//	I2. An audit log is believed only as far as it proves itself: the genesis operation hashes to the DID, each
//	    operation is signed by a rotation key of the one before it, and history is rewritten only by a
//	    stronger key within 72 hours.
//	I3. An operation's bytes are its canonical DAG-CBOR; its CID is over the signed form.
//	I4. No look-up leaves the given HTTP client; handles are not resolved unless the owner says how.
package identity
