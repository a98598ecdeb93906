package repo_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/repo/repotest"
)

// explosive is a key of a library that panics on what it is given.
type explosive struct{ atcrypto.PublicKey }

func (explosive) HashAndVerify([]byte, []byte) error { panic("index out of range") }

// V4: a panic of a library is a refusal of these bytes, never the end of the process.
func TestAPanicOfALibraryIsARefusal(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	key := explosive{a.Public()}
	_, err := repo.VerifyCommit(t.Context(), ev, key, have, later)
	requireReason(t, repo.BadStructure, err)
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(a.Repo()), a.DID, key, repo.Limits{})
	requireReason(t, repo.BadStructure, err)
	_, err = repo.VerifyProof(ev.Blocks, a.DID, key, "org.example.note/new")
	requireReason(t, repo.BadStructure, err)
}

// V2: nesting is capped where nodes and commits are read, too, before it costs anything.
func TestDeepNestingCostsNothing(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	deep := append(bytes.Repeat([]byte{0x81}, repo.MaxRecord-10), 0x80)
	began := time.Now()
	for range 20 {
		node := block(deep)
		ev := forge(t, a, node, nil)
		_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), repo.State{}, later)
		requireReason(t, repo.BadStructure, err)
		car := carOf(t, node.CID, node)
		_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(car), a.DID, a.Public(), repo.Limits{})
		requireReason(t, repo.BadStructure, err)
		require.Error(t, dagcbor.Validate(deep))
		_, err = firehose.Decode(deep)
		require.ErrorIs(t, err, firehose.ErrFrame)
	}
	require.Less(t, time.Since(began), 5*time.Second)
}

// A repository of another's blocks under one's own signature: the commit says whose it is, and every record keeps its author's path.
func TestACommitIsOfItsAuthorAlone(t *testing.T) {
	t.Parallel()
	victim, thief := repotest.NewAuthor(t, "victim"), repotest.NewAuthor(t, "thief")
	victim.Fill(10)
	stolen := repo.HandCommit(victim.DID, thief.Rev(), victim.Head.Data, thief.Key)
	blocks := repo.MapBlocks{}
	for c, b := range victim.Blocks {
		blocks[c] = b
	}
	blocks.Put(stolen)
	car := repotest.CAR(t, stolen.CID, func(b repo.Block) bool { return b.CID != victim.Head.Commit }, blocks)
	for _, c := range []struct {
		of   *repotest.Author
		key  *repotest.Author
		want repo.Reason
	}{{thief, thief, repo.BadStructure}, {victim, victim, repo.BadSignature}} {
		_, err := repo.VerifyRepo(t.Context(), bytes.NewReader(car), c.of.DID, c.key.Public(), repo.Limits{})
		requireReason(t, c.want, err)
		_, err = repo.VerifyProof(car, c.of.DID, c.key.Public(), "org.example.note/n000001")
		requireReason(t, c.want, err)
	}
}

// Limits are on what comes, not on what a header promises: bytes and blocks are counted while they are read.
func TestLimitsHoldBeforeTheWholeIsRead(t *testing.T) {
	t.Parallel()
	endless := &repeating{head: carHeader(1, noteCID), again: section(noteCID.Bytes(), note)}
	_, err := repo.ReadCAR(endless, repo.Limits{MaxBytes: 1 << 30, MaxBlocks: 1000})
	require.ErrorIs(t, err, repo.ErrTooBig)
	require.Less(t, endless.given, 1<<20)
	endless = &repeating{head: carHeader(1, noteCID), again: section(noteCID.Bytes(), note)}
	_, err = repo.ReadCAR(endless, repo.Limits{MaxBytes: 1 << 16, MaxBlocks: 1 << 30})
	require.ErrorIs(t, err, repo.ErrTooBig)
	require.Less(t, endless.given, 1<<18)
}

// repeating gives a header and then one block for ever.
type repeating struct {
	head, again, rest []byte
	given             int
}

func (r *repeating) Read(p []byte) (int, error) {
	if r.head != nil {
		r.rest, r.head = r.head, nil
	} else if len(r.rest) == 0 {
		r.rest = r.again
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	r.given += n
	return n, nil
}

// A stock verifier takes an update or a delete without prev as done. Here the operation itself is refused, before the tree is looked at.
func TestOperationsSayWhatTheyReplace(t *testing.T) {
	t.Parallel()
	for what, strip := range map[string]func(*firehose.Commit){
		"create": func(ev *firehose.Commit) { ev.Ops[0].CID = nil },
		"update": func(ev *firehose.Commit) { ev.Ops[1].Prev = nil },
		"delete": func(ev *firehose.Commit) { ev.Ops[2].Prev = nil },
	} {
		a, have, ev := oneStep(t)
		strip(ev)
		_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
		requireReason(t, repo.BadStructure, err)
		require.ErrorContains(t, err, "without the CIDs", what)
	}
}
