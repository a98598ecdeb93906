package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"
)

// streamed checks a repository in steps, as a server does that keeps the blocks in its database.
func streamed(car []byte, did syntax.DID, key atcrypto.PublicKey, lim repo.Limits) (repo.Head, error) {
	kept := repo.MapBlocks{}
	root, err := repo.StreamCAR(bytes.NewReader(car), lim, func(b repo.Block) error {
		kept.Put(b)
		return nil
	})
	if err != nil {
		return repo.Head{}, err
	}
	head, err := repo.OpenCommit(kept[root], did, key)
	if err != nil {
		return repo.Head{}, err
	}
	node := func(repo.Block) error { return nil }
	leaf := func(_ string, c cid.Cid) error {
		data, ok := kept[c]
		if !ok {
			return &repo.Reject{Reason: repo.BadStructure, Err: repo.ErrBlockMissing}
		}
		return repo.CheckRecord(c, data)
	}
	return head, repo.CheckTree(context.Background(), kept, head.Data, node, leaf)
}

func TestStreamedCheckIsAsStrictAsTheOneInMemory(t *testing.T) {
	t.Parallel()
	a, other := repotest.NewAuthor(t, "a"), repotest.NewAuthor(t, "b")
	a.Fill(300)
	full := a.Repo()
	head, err := streamed(full, a.DID, a.Public(), repo.Limits{})
	require.NoError(t, err)
	require.Equal(t, *a.Head, head)

	_, err = streamed(full, other.DID, a.Public(), repo.Limits{})
	requireReason(t, repo.BadStructure, err)
	_, err = streamed(full, a.DID, other.Public(), repo.Limits{})
	requireReason(t, repo.BadSignature, err)
	_, err = streamed(full[:len(full)-1], a.DID, a.Public(), repo.Limits{})
	requireReason(t, repo.BadStructure, err)
	_, err = streamed(full, a.DID, a.Public(), repo.Limits{MaxBlocks: 3})
	requireReason(t, repo.TooBig, err)
	_, err = streamed(full, a.DID, a.Public(), repo.Limits{MaxBytes: int64(len(full)) - 1})
	requireReason(t, repo.TooBig, err)
	file, err := repo.ReadCAR(bytes.NewReader(full), repo.Limits{})
	require.NoError(t, err)
	for c := range file.Blocks {
		car := repotest.CAR(t, file.Root, func(b repo.Block) bool { return b.CID != c }, file.Blocks)
		_, err := streamed(car, a.DID, a.Public(), repo.Limits{})
		requireReason(t, repo.BadStructure, err)
	}
}

func TestCommitMayBeSignedByAnyOfTheKeysGiven(t *testing.T) {
	t.Parallel()
	a, other := repotest.NewAuthor(t, "a"), repotest.NewAuthor(t, "b")
	a.Fill(1)
	raw := a.Blocks[a.Head.Commit]
	_, err := repo.OpenCommit(raw, a.DID, other.Public(), a.Public())
	require.NoError(t, err)
	_, err = repo.OpenCommit(raw, a.DID, other.Public())
	requireReason(t, repo.BadSignature, err)
	_, err = repo.OpenCommit(raw, a.DID)
	requireReason(t, repo.BadSignature, err)
}

// A broken connection or a full disk is no fault of the bytes: it may be tried again.
func TestStreamedReadTellsOtherErrorsFromBadBytes(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Fill(50)
	full := a.Repo()
	keep := func(repo.Block) error { return nil }
	gone := errors.New("connection gone")
	_, err := repo.StreamCAR(io.MultiReader(bytes.NewReader(full[:len(full)/2]), iotest.ErrReader(gone)), repo.Limits{}, keep)
	require.ErrorIs(t, err, gone)
	var r *repo.Reject
	require.False(t, errors.As(err, &r))
	_, err = repo.StreamCAR(bytes.NewReader(full), repo.Limits{}, func(repo.Block) error { return gone })
	require.ErrorIs(t, err, gone)
}
