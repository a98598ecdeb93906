package pds

import (
	"bytes"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

// png is a picture of one point.
var png = []byte("\x89PNG\r\n\x1a\n" +
	"\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\b\x06\x00\x00\x00\x1f\x15\xc4\x89" +
	"\x00\x00\x00\rIDATx\xdacd\xf8\xcfP\x0f\x00\x03\x86\x01\x80Z4}k" +
	"\x00\x00\x00\x00IEND\xaeB`\x82")

func (u *user) blob(cid string) answer {
	u.t.Helper()
	return u.get("", "com.atproto.sync.getBlob", "did", u.DID.String(), "cid", cid)
}

func TestBlobIsSeenOnlyWhileARecordRefersToIt(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	up := u.ok(u.upload("text/html", png))
	ref := up.JSON["blob"].(m)
	cid := up.str("blob", "ref", "$link")
	assert.Equal(t, "image/png", ref["mimeType"], "what the bytes show wins over what is declared")
	assert.InDelta(t, len(png), ref["size"], 0)
	assert.Equal(t, "BlobNotFound", u.blob(cid).name())

	u.ok(u.create(note, "a", m{"deep": []any{m{"blob": ref}}}))
	got := u.ok(u.blob(cid))
	assert.Equal(t, png, got.Raw)
	assert.Equal(t, "image/png", got.Header.Get("Content-Type"))
	assert.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
	assert.Equal(t, "default-src 'none'; sandbox", got.Header.Get("Content-Security-Policy"))
	assert.Contains(t, got.Header.Get("Content-Disposition"), "attachment")
	list := u.ok(u.get("", "com.atproto.sync.listBlobs", "did", u.DID.String()))
	assert.Equal(t, []any{cid}, list.JSON["cids"])

	u.ok(u.create(note, "b", m{"blob": ref}))
	u.ok(u.remove(note, "a", nil))
	u.ok(u.blob(cid))
	u.ok(u.put(note, "b", m{"blob": nil}, nil))
	assert.Equal(t, "BlobNotFound", u.blob(cid).name(), "the last reference went")
}

func TestBlobReferenceMustMatchTheUpload(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	with := func(k string, v any) m {
		r := m{}
		for kk, vv := range ref {
			r[kk] = vv
		}
		r[k] = v
		return m{"blob": r}
	}
	assert.Equal(t, "InvalidBlob", u.create(note, "a", with("size", 3)).name())
	assert.Equal(t, "InvalidBlob", u.create(note, "a", with("mimeType", "text/html")).name())
	assert.Equal(t, "BlobNotFound", other.create(note, "a", m{"blob": ref}).name(), "another account's upload")
}

// The row of an upload stands before its file does: a crash between them, or in the collector's work, leaves a row alone.
func TestRecordIsRefusedWhileItsBlobHasNoFile(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	up := u.ok(u.upload("image/png", png))
	files, err := filepath.Glob(filepath.Join(u.deps.BlobDir, "did=*", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Remove(files[0]))
	assert.Equal(t, "BlobNotFound", u.create(note, "a", m{"blob": up.JSON["blob"]}).name(), "nobody could ever read it")

	u.ok(u.upload("image/png", png))
	u.ok(u.create(note, "a", m{"blob": up.JSON["blob"]}))
	assert.Equal(t, png, u.ok(u.blob(up.str("blob", "ref", "$link"))).Raw)
}

func TestUploadLimits(t *testing.T) {
	t.Parallel()
	u := newBed(t, func(c *Config) { c.MaxBlob = 1000 }).account("user")
	u.ok(u.upload("text/plain", bytes.Repeat([]byte("x"), 1000)))
	assert.Equal(t, http.StatusRequestEntityTooLarge, u.upload("text/plain", bytes.Repeat([]byte("x"), 1001)).Status)
	assert.Equal(t, http.StatusBadRequest, u.upload("text/plain", nil).Status)
	u.Access = ""
	assert.Equal(t, "AuthMissing", u.upload("text/plain", []byte("x")).name())
	left, err := os.ReadDir(filepath.Join(u.deps.BlobDir, tmpDir))
	require.NoError(t, err)
	assert.Empty(t, left, "nothing is left of what was refused")
}

func TestCollectorTakesOldUnreferencedBlobsOnly(t *testing.T) {
	t.Parallel()
	u := newBed(t, func(c *Config) { c.AccessTTL = 100 * time.Hour }).account("user")
	kept := u.ok(u.upload("text/plain", []byte("kept")))
	u.ok(u.create(note, "a", m{"blob": kept.JSON["blob"]}))
	u.ok(u.upload("text/plain", []byte("old")))
	u.clock.Advance(23 * time.Hour)
	young := u.ok(u.upload("text/plain", []byte("young")))
	u.clock.Advance(2 * time.Hour)
	require.NoError(t, u.server.Load().sweep(t.Context()))
	assert.Equal(t, 2, u.count(`select count(*) from blob`))
	files, err := filepath.Glob(filepath.Join(u.deps.BlobDir, "did=*", "*"))
	require.NoError(t, err)
	assert.Len(t, files, 2)
	u.ok(u.blob(kept.str("blob", "ref", "$link")))

	u.ok(u.create(note, "b", m{"blob": young.JSON["blob"]}))
}

func (b *bed) used(u *user) int {
	b.t.Helper()
	return b.count(`select coalesce(sum(used), 0)::int from blob_use where did = $1`, u.DID)
}

func TestQuotaIsOfAllBlobsOfAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.BlobQuota = 250 })
	u, other := b.account("user"), b.account("other")
	text := func(s string) []byte { return bytes.Repeat([]byte(s), 100) }
	u.ok(u.upload("text/plain", text("a")))
	second := u.ok(u.upload("text/plain", text("b")))
	no := u.upload("text/plain", text("c"))
	assert.Equal(t, http.StatusRequestEntityTooLarge, no.Status)
	assert.Equal(t, "BlobQuotaExceeded", no.name())
	u.ok(u.upload("text/plain", text("a")))
	other.ok(other.upload("text/plain", text("c")))
	u.ok(u.upload("text/plain", text("c")[:50]))
	assert.Equal(t, 250, b.used(u), "what is there already takes no more room")

	require.NoError(t, SetBlobQuota(t.Context(), b.deps.Pool, u.DID, 300))
	u.ok(u.upload("text/plain", text("d")[:50]))
	u.ok(u.create(note, "a", m{"blob": second.JSON["blob"]}))
	b.clock.Advance(25 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Equal(t, 100, b.used(u), "what was collected leaves its room")
	assert.Equal(t, b.count(`select sum(size)::int from blob`), b.count(`select sum(used)::int from blob_use`))
	left, err := os.ReadDir(filepath.Join(b.deps.BlobDir, tmpDir))
	require.NoError(t, err)
	assert.Empty(t, left, "nothing is left of what was refused")

	fresh := b.account("fresh")
	require.NoError(t, SetBlobQuota(t.Context(), b.deps.Pool, fresh.DID, 10))
	assert.Equal(t, "BlobQuotaExceeded", fresh.upload("text/plain", text("a")).name())
	require.NoError(t, SetBlobQuota(t.Context(), b.deps.Pool, fresh.DID, 0))
	fresh.ok(fresh.upload("text/plain", text("a")))
	assert.ErrorIs(t, SetBlobQuota(t.Context(), b.deps.Pool, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", 1), errNoRepo)
}

func TestTwoUploadsDoNotBothTakeTheLastRoom(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.BlobQuota = 500 })
	u := b.account("user")
	var taken, refused atomic.Int32
	var uploads sync.WaitGroup
	for i := range uploadsAccount {
		uploads.Go(func() {
			switch got := u.upload("text/plain", bytes.Repeat([]byte{byte('a' + i)}, 100)); got.name() {
			case "":
				taken.Add(1)
			case "BlobQuotaExceeded":
				refused.Add(1)
			}
		})
	}
	uploads.Wait()
	assert.EqualValues(t, 5, taken.Load())
	assert.EqualValues(t, uploadsAccount-5, refused.Load())
	assert.Equal(t, 500, b.used(u))
	assert.Equal(t, 5, b.count(`select count(*) from blob`))
}

// remarked is the picture with a remark in it.
func remarked() []byte {
	remark := "\x00\x00\x00\x0ctEXtComment\x00here\xb7\x01\x02\x03"
	return bytes.Join([][]byte{png[:33], []byte(remark), png[33:]}, nil)
}

func TestPhotoIsStrippedUnlessItsOwnerKeepsIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	clean := u.ok(u.upload("image/png", remarked()))
	assert.Equal(t, u.ok(u.upload("image/png", png)).JSON, clean.JSON, "the CID and size answered are of what is kept")
	u.ok(u.create(note, "a", m{"blob": clean.JSON["blob"]}))
	assert.Equal(t, png, u.ok(u.blob(clean.str("blob", "ref", "$link"))).Raw)

	whole := u.ok(u.uploadAsIs("image/png", remarked()))
	assert.NotEqual(t, clean.str("blob", "ref", "$link"), whole.str("blob", "ref", "$link"))
	u.ok(u.create(note, "b", m{"blob": whole.JSON["blob"]}))
	assert.Equal(t, remarked(), u.ok(u.blob(whole.str("blob", "ref", "$link"))).Raw)
	assert.Equal(t, whole.JSON, u.ok(u.upload("image/png", remarked())).JSON, "the very blob that the account has is not made another")

	broken := png[:40]
	assert.Equal(t, "InvalidBlob", u.upload("image/png", broken).name(), "nobody can tell what is in it")
	u.ok(u.uploadAsIs("image/png", broken))
	left, err := os.ReadDir(filepath.Join(b.deps.BlobDir, tmpDir))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// Records that are brought along name their blobs by CID.
func TestAccountThatMovesInKeepsItsBlobsAsTheyWere(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	_, err := b.pool.Exec(t.Context(), `update account set status = 'deactivated' where did = $1`, u.DID)
	require.NoError(t, err)
	assert.InDelta(t, len(remarked()), u.ok(u.upload("image/png", remarked())).JSON["blob"].(m)["size"], 0)
	_, err = b.pool.Exec(t.Context(), `update account set status = 'takendown' where did = $1`, u.DID)
	require.NoError(t, err)
	assert.NotEqual(t, http.StatusOK, u.upload("image/png", png).Status)
}

func TestBlobComesBackAfterItsLastReferenceWent(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.AccessTTL = 100 * time.Hour })
	u := b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"]
	u.ok(u.create(note, "a", m{"blob": ref}))
	u.ok(u.remove(note, "a", nil))
	b.clock.Advance(25 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Equal(t, "BlobNotFound", u.create(note, "a", m{"blob": ref}).name())
	assert.Equal(t, ref, u.ok(u.upload("image/png", png)).JSON["blob"])
	u.ok(u.create(note, "a", m{"blob": ref}))
	assert.Equal(t, len(png), b.used(u))
}

func TestTakenDownBlobIsGoneUntilItIsPutBack(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.AccessTTL = 100 * time.Hour })
	u := b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"]
	u.ok(u.create(note, "a", m{"blob": ref}))
	s := b.server.Load()
	c, err := cid.Decode(ref.(m)["ref"].(m)["$link"].(string))
	require.NoError(t, err)
	id := c.String()
	for range 2 { // again is the same
		require.NoError(t, s.quarantineBlob(t.Context(), u.DID, c, true))
	}
	on, err := s.blobQuarantined(t.Context(), u.DID, c)
	require.NoError(t, err)
	assert.True(t, on)
	assert.Equal(t, "BlobNotFound", u.blob(id).name())
	assert.Empty(t, u.ok(u.get("", "com.atproto.sync.listBlobs", "did", u.DID.String())).JSON["cids"])
	assert.Equal(t, "BlobTakendown", u.upload("image/png", png).name())
	assert.Equal(t, "BlobNotFound", u.create(note, "b", m{"blob": ref}).name())
	u.ok(u.remove(note, "a", nil))
	b.clock.Advance(25 * time.Hour)
	require.NoError(t, s.sweep(t.Context()))
	assert.Equal(t, 1, b.count(`select count(*) from blob`), "it stays known, so that it stays refused")

	for range 2 {
		require.NoError(t, s.quarantineBlob(t.Context(), u.DID, c, false))
	}
	u.ok(u.create(note, "b", m{"blob": ref}))
	assert.Equal(t, png, u.ok(u.blob(id)).Raw)
	other, err := cid.Decode(someCID)
	require.NoError(t, err)
	assert.ErrorIs(t, s.quarantineBlob(t.Context(), u.DID, other, true), refused("BlobNotFound", ""))

	require.NoError(t, s.quarantineBlob(t.Context(), u.DID, c, true))
	require.NoError(t, s.delete(t.Context(), u.DID))
	files, err := filepath.Glob(filepath.Join(b.deps.BlobDir, "*", "*", "*"))
	require.NoError(t, err)
	assert.Empty(t, files, "a deleted account leaves nothing in quarantine either")
}

func TestCollectorCountsBeforeItTakes(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.AccessTTL = 100 * time.Hour })
	u := b.account("user")
	u.ok(u.upload("text/plain", []byte("old")))
	b.clock.Advance(23 * time.Hour)
	u.ok(u.upload("text/plain", []byte("young")))
	b.clock.Advance(2 * time.Hour)
	now := b.clock.Now()
	old := func(path string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		require.NoError(t, os.Chtimes(path, now.Add(-25*time.Hour), now.Add(-25*time.Hour)))
	}
	old(filepath.Join(b.deps.BlobDir, tmpDir, "up-broken"))
	old(filepath.Join(b.deps.BlobDir, "did=plc=goneaccount", "blob"))
	young, err := os.CreateTemp(filepath.Join(b.deps.BlobDir, tmpDir), "up-*")
	require.NoError(t, err)
	require.NoError(t, young.Close())
	require.NoError(t, os.Chtimes(young.Name(), now, now))
	files := func() int {
		n := 0
		require.NoError(t, filepath.WalkDir(b.deps.BlobDir, func(_ string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n++
			}
			return err
		}))
		return n
	}
	want := Collected{Blobs: 1, Bytes: 3, Uploads: 1, Strays: 1}
	before := files()
	for range 2 {
		got, err := CollectBlobs(t.Context(), b.deps.Pool, b.deps.BlobDir, 24*time.Hour, now, true)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	assert.Equal(t, before, files(), "a dry run takes nothing")
	got, err := CollectBlobs(t.Context(), b.deps.Pool, b.deps.BlobDir, 24*time.Hour, now, false)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, before-3, files())
	assert.Equal(t, 1, b.count(`select count(*) from blob`))
	got, err = CollectBlobs(t.Context(), b.deps.Pool, b.deps.BlobDir, 24*time.Hour, now, false)
	require.NoError(t, err)
	assert.Zero(t, got)
	_, err = CollectBlobs(t.Context(), b.deps.Pool, filepath.Join(b.deps.BlobDir, "missing"), time.Hour, now, true)
	assert.Error(t, err, "a folder that is not there is no empty folder")
}

func TestBlobIsServedInPartsAndFromCaches(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	up := u.ok(u.upload("text/plain", []byte("0123456789")))
	u.ok(u.create(note, "a", m{"blob": up.JSON["blob"]}))
	id := up.str("blob", "ref", "$link")
	ask := func(verb string, headers ...string) answer {
		req, err := http.NewRequest(verb, b.url+"/xrpc/com.atproto.sync.getBlob?did="+u.DID.String()+"&cid="+id, nil)
		require.NoError(t, err)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		return b.do(req)
	}
	whole := ask(http.MethodGet)
	assert.Equal(t, `"`+id+`"`, whole.Header.Get("ETag"))
	assert.Equal(t, "public, max-age=300", whole.Header.Get("Cache-Control"))
	assert.Equal(t, "cross-origin", whole.Header.Get("Cross-Origin-Resource-Policy"))
	part := ask(http.MethodGet, "Range", "bytes=2-4")
	assert.Equal(t, http.StatusPartialContent, part.Status)
	assert.Equal(t, "234", string(part.Raw))
	assert.Equal(t, "bytes 2-4/10", part.Header.Get("Content-Range"))
	assert.Equal(t, http.StatusNotModified, ask(http.MethodGet, "If-None-Match", `"`+id+`"`).Status)
	head := ask(http.MethodHead)
	assert.Equal(t, "10", head.Header.Get("Content-Length"))
	assert.Empty(t, head.Raw)
	assert.Equal(t, http.StatusRequestedRangeNotSatisfiable, ask(http.MethodGet, "Range", "bytes=20-").Status)
}

func TestFullDiskIsNotTheUploadsFault(t *testing.T) {
	t.Parallel()
	err := noRoom(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	var shown *xrpc.Error
	require.ErrorAs(t, err, &shown)
	assert.Equal(t, http.StatusServiceUnavailable, shown.Status)
	assert.Positive(t, shown.RetryAfter)
	assert.Equal(t, fs.ErrClosed, noRoom(fs.ErrClosed))
}

func TestOnlyBlobsAreServedUnderTheirOwnName(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.BlobHost = "blobs.example" })
	u := b.account("user")
	up := u.ok(u.upload("text/plain", []byte("text")))
	u.ok(u.create(note, "a", m{"blob": up.JSON["blob"]}))
	at := func(host, path string) int {
		req, err := http.NewRequest(http.MethodGet, b.url+path, nil)
		require.NoError(t, err)
		req.Host = host
		return b.do(req).Status
	}
	blob := getBlobPath + "?did=" + u.DID.String() + "&cid=" + up.str("blob", "ref", "$link")
	for _, host := range []string{"blobs.example", "BLOBS.example:443"} {
		assert.Equal(t, http.StatusOK, at(host, blob))
		for _, path := range []string{"/", "/account/sign-in", "/oauth/authorize", "/.well-known/oauth-authorization-server", "/xrpc/com.atproto.server.describeServer"} {
			assert.Equal(t, http.StatusNotFound, at(host, path), path)
		}
	}
	assert.Equal(t, http.StatusOK, at("", "/xrpc/com.atproto.server.describeServer"))
	for _, host := range []string{"pds.example", "blobs.example:80"} {
		cfg := Config{PublicURL: "https://pds.example", ServiceDID: "did:web:pds.example", HandleDomains: []string{".example"}, BlobHost: host}
		assert.ErrorContains(t, cfg.Validate(), "blob host")
	}
}
