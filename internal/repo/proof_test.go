package repo_test

import (
	"bytes"
	"testing"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/stretchr/testify/require"
)

func TestProofsShowPresenceAndAbsence(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Fill(500)
	path := "org.example.note/n000123"
	car, err := repo.Proof(t.Context(), a.Blocks, *a.Head, path)
	require.NoError(t, err)
	require.Less(t, len(car), 8000)
	p, err := repo.VerifyProof(car, a.DID, a.Public(), path)
	require.NoError(t, err)
	require.Equal(t, repotest.Note("note 123"), p.Record)
	require.Equal(t, a.Head.Rev, p.Rev)
	require.Equal(t, a.Head.Commit, p.Commit)

	_, err = repo.VerifyProof(car, repotest.DID("b"), a.Public(), path)
	requireReason(t, repo.BadStructure, err)
	_, err = repo.VerifyProof(car, a.DID, repotest.NewAuthor(t, "a").Public(), path)
	requireReason(t, repo.BadSignature, err)
	_, err = repo.VerifyProof(car, a.DID, a.Public(), "org.example.note/n000400")
	requireReason(t, repo.BadStructure, err) // its way is not in this proof
	file, err := repo.ReadCAR(bytes.NewReader(car), repo.Limits{})
	require.NoError(t, err)
	for c := range file.Blocks {
		cut := repotest.CAR(t, file.Root, func(b repo.Block) bool { return b.CID != c }, file.Blocks)
		_, err := repo.VerifyProof(cut, a.DID, a.Public(), path)
		requireReason(t, repo.BadStructure, err)
	}

	gone := "org.example.note/none"
	car, err = repo.Proof(t.Context(), a.Blocks, *a.Head, gone)
	require.NoError(t, err)
	p, err = repo.VerifyProof(car, a.DID, a.Public(), gone)
	require.NoError(t, err)
	require.False(t, p.CID.Defined())
	require.Nil(t, p.Record)
}

func TestProofCutOutOfAVerifiedCommit(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	v, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
	require.NoError(t, err)
	require.Equal(t, a.Public().DIDKey(), v.Key)
	kept := &repo.Verified{DID: v.DID, Commit: v.Commit, Rev: v.Rev, Data: v.Data, CAR: v.CAR} // as read back from a store
	for _, src := range []*repo.Verified{v, kept} {
		for _, op := range v.Ops {
			path := op.Collection + "/" + op.RKey
			car, err := repo.ProofFromSlice(src, path)
			require.NoError(t, err)
			p, err := repo.VerifyProof(car, a.DID, a.Public(), path)
			require.NoError(t, err)
			require.Equal(t, op.CID, p.CID)
			require.Equal(t, op.Record, p.Record)
		}
		_, err = repo.ProofFromSlice(src, "org.example.note/n000050")
		require.ErrorIs(t, err, repo.ErrBlockMissing)
	}
}
