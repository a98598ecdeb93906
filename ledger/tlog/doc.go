// Package tlog is the ledger's Merkle tree and its public forms: stored hashes of golang.org/x/mod/sumdb/tlog, tiles and
// checkpoints as C2SP tlog-tiles and tlog-checkpoint say, notes signed with Ed25519 under the ledger's DID.
//
// Invariants:
//
//	T1  The leaf at index i is entry i: nothing is inserted, replaced or left out.
//	T2  A root is computed from stored hashes only; what is given out is what is stored.
//	T3  Every decoder accepts one form of a thing and refuses all others, within stated sizes.
package tlog
