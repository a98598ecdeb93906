// Package pds is a personal data server: accounts, signed repositories, blobs, and the
// firehose that tells the network of every change.
//
// What holds at every moment, a crash included:
//
//   - P1: a write is in one transaction, which it may share with writes of other
//     repositories. The repository head, its blocks, records, blob references and
//     firehose event are all there or none is.
//   - P2: event numbers rise without reuse and become visible in order. The number is
//     taken last in the transaction from the one row of event_head.
//   - P3: table block holds exactly what the head of a repository reaches, so a full
//     export is a read of that table.
//   - P4: a repository changes only under the lock of its row in repo; rev rises with
//     every commit and is never ahead of the clock except to stay above the last one.
//   - P5: a blob is served only while a record of the same account refers to it and it is
//     not taken down. What the blobs of an account take stands in blob_use, and changes
//     with them in one transaction.
//   - P6: no secret is stored in the clear: passwords as argon2id, signing keys sealed
//     under the master key, session tokens not at all.
//   - P7: an account exists only after the PLC directory took its DID. What is half
//     made is a row in signup, and the same request finishes it.
//   - P8: who acts for an account that is not theirs is asked for in the transaction of
//     the write, and stands beside it in act_log, never in the repository or an answer
//     to the public.
//   - P9: what a server remembers of repositories and sessions between two writes saves
//     it the questions, not the answers: the transaction of a write refuses another
//     head or key, an account that is not active and a session that is over.
//
// Locks are taken in the order repo, account, controller, blob_use, blob, event_head;
// repositories in the order of their DIDs.
package pds
