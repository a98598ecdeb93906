package firehose

import (
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// Limits on what a frame may hold. A commit over MaxOps or MaxBlocks is not
// written, and refused when verified.
const (
	MaxFrame  = 5 << 20 // bytes of one frame
	MaxBlocks = 2 << 20 // bytes of the blocks field; the spec's 2,000,000 and its CAR framing
	MaxOps    = 200
	maxBlobs  = 1000

	// maxOpsRead is what is read of a commit over the limit, so that its
	// sequence and author are known and the repository can be fetched instead.
	maxOpsRead = 5000
)

// Event is one message of the stream: *[Commit], *[Sync], *[Identity],
// *[Account], *[Info], *[Failure] or *[Unknown].
type Event interface {
	// Sequence is the event's place in the stream, 0 for messages without one.
	Sequence() int64
	// Subject is the account the event is about, empty for messages without one.
	Subject() syntax.DID
}

// Op is one record operation inside a commit.
type Op struct {
	Action string // create, update or delete
	Path   string // collection/rkey
	CID    *cid.Cid
	Prev   *cid.Cid
}

// Commit announces a signed change of one repository. Nothing in it is true
// before repo.VerifyCommit said so.
type Commit struct {
	Seq      int64
	DID      syntax.DID
	Commit   cid.Cid
	Rev      string
	Since    string // empty: null
	PrevData *cid.Cid
	Ops      []Op
	Blocks   []byte // CAR
	Time     string
	TooBig   bool
	Rebase   bool
}

// Sync announces that a repository was replaced: its chain starts anew.
type Sync struct {
	Seq    int64
	DID    syntax.DID
	Rev    string
	Blocks []byte // CAR with the commit alone
	Time   string
}

// Identity tells that the account's DID document or handle may have changed.
type Identity struct {
	Seq    int64
	DID    syntax.DID
	Handle string // empty: not told
	Time   string
}

// Account tells the account's status at this host.
type Account struct {
	Seq    int64
	DID    syntax.DID
	Active bool
	Status string // takendown, suspended, deleted, deactivated…; empty when active
	Time   string
}

// Info is a message about the stream itself, such as OutdatedCursor.
type Info struct{ Name, Message string }

// Failure is the host's last word before it closes, such as FutureCursor.
type Failure struct{ Name, Message string }

// Unknown is a well-formed message of a type this package does not know.
type Unknown struct{ Type string }

func (e *Commit) Sequence() int64   { return e.Seq }
func (e *Sync) Sequence() int64     { return e.Seq }
func (e *Identity) Sequence() int64 { return e.Seq }
func (e *Account) Sequence() int64  { return e.Seq }
func (*Info) Sequence() int64       { return 0 }
func (*Failure) Sequence() int64    { return 0 }
func (*Unknown) Sequence() int64    { return 0 }

func (e *Commit) Subject() syntax.DID   { return e.DID }
func (e *Sync) Subject() syntax.DID     { return e.DID }
func (e *Identity) Subject() syntax.DID { return e.DID }
func (e *Account) Subject() syntax.DID  { return e.DID }
func (*Info) Subject() syntax.DID       { return "" }
func (*Failure) Subject() syntax.DID    { return "" }
func (*Unknown) Subject() syntax.DID    { return "" }
