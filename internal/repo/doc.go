// Package repo writes atproto repositories and checks those of strangers.
//
// A repository is a signed commit over a Merkle search tree (MST) of record
// CIDs. The write path loads only the tree nodes it touches ([Apply]); the
// verifier trusts nothing in the bytes it is given ([VerifyCommit],
// [VerifyRepo], [VerifyProof]).
//
// Invariants of the write path:
//
//   - R1. A tree's bytes depend only on its keys and values, never on the order
//     of writes: after [Apply] the root equals that of a tree built anew.
//   - R2. The CAR of a commit holds every block that a verifier needs to undo
//     each operation and arrive at the former root, and every block is new or on
//     such a path.
//   - R3. A commit within the limits of the network, or an error: at most 200
//     operations, 1 MB a record, 2 MB of blocks; its rev is later than the last.
//
// Invariants of the verifier:
//
//   - V1. Bytes are bounded before they are read, and every block is hashed
//     again before it is used; a block is addressed only by sha-256.
//   - V2. Tree nodes are decoded here, canonically, and are walked before
//     anything else: keys rise, are valid paths and have their node's height;
//     heights fall by one; no node is reached twice.
//   - V3. A commit is taken only as the successor of what is held: prevData is
//     the held root, and undoing the operations reproduces it exactly.
//   - V4. A refusal is a [Reject] with a stable reason; nothing panics.
package repo
