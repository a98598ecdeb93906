package pds

import (
	"bytes"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/atclient"
	indigorepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The library that the network's relay is made of reads what this server serves. It
// shares no code with our own verifier.

func TestStockClientSignsInWritesAndReads(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ctx := t.Context()
	c, err := atclient.LoginWithPasswordHost(ctx, b.url, u.Handle, password, "", nil)
	require.NoError(t, err)
	in := m{"repo": u.DID, "collection": note, "rkey": "a", "record": m{"text": "hello"}}
	var out comatproto.RepoCreateRecord_Output
	require.NoError(t, c.Post(ctx, "com.atproto.repo.createRecord", in, &out))
	assert.NotEmpty(t, out.Commit.Rev)

	b.clock.Advance(b.server.Load().cfg.AccessTTL) // the client must refresh by itself
	session, err := comatproto.ServerGetSession(ctx, c)
	require.NoError(t, err)
	assert.Equal(t, u.DID.String(), session.Did)

	described, err := comatproto.RepoDescribeRepo(ctx, c, u.DID.String())
	require.NoError(t, err)
	assert.Equal(t, []string{note}, described.Collections)
	latest, err := comatproto.SyncGetLatestCommit(ctx, c, u.DID.String())
	require.NoError(t, err)
	assert.Equal(t, out.Commit.Cid, latest.Cid)
	repos, err := comatproto.SyncListRepos(ctx, c, "", 10)
	require.NoError(t, err)
	require.Len(t, repos.Repos, 1)
	blob, err := comatproto.RepoUploadBlob(ctx, c, bytes.NewReader(png))
	require.NoError(t, err)
	assert.Equal(t, "image/png", blob.Blob.MimeType)
	_, err = comatproto.RepoGetRecord(ctx, c, "", note, u.Handle, "nothing")
	var refused *atclient.APIError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "RecordNotFound", refused.Name)
}

func TestStockLibraryVerifiesExportAndStream(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for i := range 30 {
		u.ok(u.put(note, string(rune('a'+i%12)), m{"i": i}, nil))
	}
	for _, k := range []string{"a", "f", "l"} {
		u.ok(u.remove(note, k, nil))
	}
	ctx := t.Context()
	car := u.ok(u.get("", "com.atproto.sync.getRepo", "did", u.DID.String())).Raw
	commit, loaded, err := indigorepo.LoadRepoFromCAR(ctx, bytes.NewReader(car))
	require.NoError(t, err)
	require.NoError(t, commit.VerifyStructure())
	require.NoError(t, commit.VerifySignature(u.key()))
	for _, k := range []string{"b", "k"} {
		_, _, err := loaded.GetRecordBytes(ctx, syntax.NSID(note), syntax.RecordKey(k))
		require.NoError(t, err, k)
	}
	_, _, err = loaded.GetRecordBytes(ctx, syntax.NSID(note), "f")
	require.ErrorIs(t, err, indigorepo.ErrNotFound)

	page, err := eventStore{b.pool}.Page(ctx, 0, 1000)
	require.NoError(t, err)
	header := []byte("\xa2\x61t\x67#commit\x62op\x01")
	seen := 0
	for _, f := range page {
		body, ok := bytes.CutPrefix(f.Bytes, header)
		if !ok {
			continue
		}
		var msg comatproto.SyncSubscribeRepos_Commit
		require.NoError(t, msg.UnmarshalCBOR(bytes.NewReader(body)))
		_, err := indigorepo.VerifyCommitMessage(ctx, &msg)
		require.NoError(t, err, "event %d", f.Seq)
		_, err = indigorepo.VerifyCommitSignatureFromCar(ctx, b.dir, msg.Blocks)
		require.NoError(t, err, "event %d", f.Seq)
		sent, err := time.Parse(time.RFC3339, msg.Time)
		require.NoError(t, err)
		assert.Equal(t, b.clock.Now(), sent.UTC())
		seen++
	}
	assert.Equal(t, 34, seen)
}
