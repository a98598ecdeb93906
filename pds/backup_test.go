package pds

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/dump"
	"city-sync.org/citysync/internal/pg/pgtest"
)

func (b *bed) backup() []byte {
	b.t.Helper()
	var out bytes.Buffer
	_, err := Backup(b.t.Context(), b.deps.Pool, b.deps.BlobDir, &out)
	require.NoError(b.t, err)
	return out.Bytes()
}

// restored moves the bed to another database and blob folder, filled from an archive. The server is not started again.
func (b *bed) restored(archive []byte) *Restored {
	b.t.Helper()
	b.pool = pgtest.Open(b.t, pgtest.DSN(b.t), pgtest.SchemaName)
	b.deps.BlobDir = filepath.Join(b.t.TempDir(), "blobs")
	out, err := Restore(b.t.Context(), b.pool, RestoreConfig{Schema: pgtest.SchemaName, BlobDir: b.deps.BlobDir}, bytes.NewReader(archive))
	require.NoError(b.t, err)
	b.deps.Pool = pgtest.AsRole(b.t, b.pool, GrantTo)
	return out
}

func TestRestoredServerHasWhatTheBackupHadAndGoesOn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, closed := b.account("user"), b.account("closed")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	u.ok(u.create(note, "a", m{"text": "before", "blob": ref}))
	closed.ok(closed.post(closed.Access, "com.atproto.server.deactivateAccount", m{}))
	stop := b.run()
	seen := b.mirrored()
	seen.holds(u)
	archive := b.backup()

	// What consumers saw after the backup was made is gone with the disk.
	u.ok(u.create(note, "b", m{"text": "after"}))
	u.ok(u.remove(note, "a", nil))
	late := b.account("late")
	seen.holds(u, late)
	last := b.count(`select seq from event_head`)
	_, lastRev := u.head()
	stop()

	out := b.restored(archive)
	require.EqualValues(t, 2, out.Accounts)
	require.EqualValues(t, 1, out.Blobs)
	require.Zero(t, out.Lost)
	b.clock.Advance(time.Minute)
	b.restart()
	b.run()
	seen.holds(u)
	require.Greater(t, b.count(`select min(seq) from event where seq > $1`, out.Seq), last, "no number is given out twice")
	_, rev := u.head()
	require.Greater(t, rev, lastRev, "its revisions go on above what anybody has seen")
	require.Zero(t, b.count(`select count(*) from resync`))

	// A session of the time before may have been ended since.
	require.Equal(t, http.StatusBadRequest, u.get(u.Access, "com.atproto.server.getSession").Status)
	u.Access = b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": u.Handle, "password": password})).str("accessJwt")
	u.ok(u.create(note, "c", m{"text": "on"}))
	got := u.get("", "com.atproto.sync.getBlob", "did", u.DID.String(), "cid", ref["ref"].(m)["$link"].(string))
	require.Equal(t, http.StatusOK, got.Status)
	assert.Equal(t, png, got.Raw)
	require.Equal(t, "RepoDeactivated", closed.get("", "com.atproto.sync.getRepo", "did", closed.DID.String()).name())
	require.Equal(t, "RepoNotFound", b.get("", "com.atproto.sync.getRepo", "did", late.DID.String()).name())
}

func TestBackupThatIsNotWholeRestoresNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	u.ok(u.create(note, "a", m{"blob": ref}))
	archive := b.backup()
	pool := pgtest.Open(t, pgtest.DSN(t), pgtest.SchemaName)
	dir := filepath.Join(t.TempDir(), "blobs")
	try := func(raw []byte) error {
		_, err := Restore(t.Context(), pool, RestoreConfig{Schema: pgtest.SchemaName, BlobDir: dir}, bytes.NewReader(raw))
		return err
	}
	r := bytes.NewReader(archive)
	kinds := map[string]bool{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if h.Size == 0 {
			continue
		}
		kinds[filepath.Dir(h.Name)] = true
		flipped := bytes.Clone(archive)
		flipped[len(archive)-r.Len()+int(h.Size)/2] ^= 1
		require.Error(t, try(flipped), "a flipped bit in %s", h.Name)
	}
	require.True(t, kinds["blob/"+u.DID.String()] && kinds["table/account"] && kinds["."], "%v", kinds)
	for name, raw := range map[string][]byte{"cut": archive[:len(archive)*2/3], "none": nil, "no archive": []byte("hello")} {
		require.ErrorIs(t, try(raw), ErrBackup, name)
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files, "nothing is left of what failed")

	require.NoError(t, try(archive))
	require.ErrorIs(t, try(archive), ErrNotEmpty, "a server is never overwritten")
	dir = filepath.Join(t.TempDir(), "other")
	require.ErrorIs(t, try(archive), ErrNotEmpty)
}

func TestTakenDownBlobStaysSoThroughBackupAndRestore(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	u.ok(u.create(note, "a", m{"blob": ref}))
	c, err := cid.Decode(ref["ref"].(m)["$link"].(string))
	require.NoError(t, err)
	require.NoError(t, b.server.Load().quarantineBlob(t.Context(), u.DID, c, true))
	out := b.restored(b.backup())
	require.EqualValues(t, 1, out.Blobs)
	require.Zero(t, out.Lost)
	b.restart()
	s := b.server.Load()
	assert.FileExists(t, s.files.quarantined(u.DID, c))
	assert.NoFileExists(t, s.files.path(u.DID, c))
	assert.Equal(t, "BlobNotFound", u.blob(c.String()).name())
	require.NoError(t, s.quarantineBlob(t.Context(), u.DID, c, false))
	assert.Equal(t, png, u.ok(u.blob(c.String())).Raw)
	assert.Equal(t, len(png), b.used(u), "what its blobs take is in the backup")
}

func TestBackupOfAMissingBlobFails(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	c, err := cid.Decode(ref["ref"].(m)["$link"].(string))
	require.NoError(t, err)
	require.NoError(t, os.Remove(b.server.Load().files.path(u.DID, c)))
	b.backup() // nobody refers to it: a crash may leave that
	require.NoError(t, os.MkdirAll(b.server.Load().files.folder(u.DID), 0o700))
	u.ok(u.upload("image/png", png))
	u.ok(u.create(note, "a", m{"blob": ref}))
	require.NoError(t, os.Remove(b.server.Load().files.path(u.DID, c)))
	_, err = Backup(t.Context(), b.deps.Pool, b.deps.BlobDir, io.Discard)
	require.ErrorIs(t, err, errBroken)
	require.NotErrorIs(t, err, dump.ErrBackup)
}

// A restore that stopped after its tables were there, and before its last step, lets nobody in who was signed in, and forgets no repository.
func TestTablesAreNeverRestoredWithoutTheEndOfSignIns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	archive := b.backup()
	pool := pgtest.Open(t, pgtest.DSN(t), pgtest.SchemaName)
	require.NoError(t, pg.Migrate(t.Context(), pool, pgtest.SchemaName, migrations))
	a, out := dump.NewReader(bytes.NewReader(archive)), &Restored{}
	require.NoError(t, a.Header(&out.BackupHeader))
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return restore(t.Context(), tx, a, RestoreConfig{BlobDir: t.TempDir()}, out)
	}))
	b.pool = pool
	require.Zero(t, b.count(`select count(*) from session`))
	require.Equal(t, 1, b.count(`select count(*) from resync where did = $1`, u.DID))
}

func TestRepositoryThatCannotBeginAnewHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	one, two := b.account("one"), b.account("two")
	_, err := b.pool.Exec(t.Context(), `insert into resync (did) select did from repo`)
	require.NoError(t, err)
	broken, fine := one, two
	if two.DID < one.DID {
		broken, fine = two, one
	}
	_, err = b.pool.Exec(t.Context(), `update account set signing_key = '\x00' where did = $1`, broken.DID)
	require.NoError(t, err)
	_, before := fine.head()
	begun, failed, err := b.server.Load().resyncAll(t.Context())
	require.NoError(t, err)
	assert.Equal(t, [2]int{1, 1}, [2]int{begun, failed})
	_, rev := fine.head()
	assert.Greater(t, rev, before)
	assert.Equal(t, 1, b.count(`select count(*) from resync where did = $1`, broken.DID), "it is tried again")
}
