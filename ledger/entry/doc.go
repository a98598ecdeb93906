// Package entry is the city ledger's unit of record: one entry, its canonical leaf bytes both ways, the commitment that
// stands for its sealed part, and the token by which a claim and its mint are known.
//
// Invariants:
//
//	E1  A leaf is one DAG-CBOR map; Decode accepts only the bytes that Encode gives back, so a leaf has one form.
//	E2  A leaf holds no sealed value, only its commitment; Entry.Sealed is never encoded.
//	E3  A leaf is at most 4 KiB; parameters, epochOpen and reserve, which carry lists, at most 60 KiB.
//	E4  An entry has exactly the body its kind names.
//	E5  Every list, string and number in a leaf has a bound.
//	E6  The sum tree of a book shows each holder their own balance under a root whose sum is that of all, and nobody another's.
//
// The package is pure: randomness comes in as an io.Reader, time as a value.
package entry
