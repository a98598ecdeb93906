// Package firehose speaks com.atproto.sync.subscribeRepos in both directions:
// frames, a client that reconnects, and the server side of a PDS.
//
// Invariants:
//
//   - F1. A frame from a stranger is read by a strict, bounded decoder: canonical
//     DAG-CBOR, known fields of the right type, lists capped, nothing left over.
//     It never panics. A type this package does not know is an [Unknown] event.
//   - F2. The client hands over events in the order of the wire and remembers a
//     sequence only after its handler returned without error.
//   - F3. The server sends each event once per connection, in rising sequence, and
//     holds at most one bounded window of frames for all subscribers together.
//   - F4. Only one reader follows the store's tail, however many subscribers
//     there are; it moves when it is told to, not by polling. Who has stored the
//     next events may hand them over instead.
package firehose
