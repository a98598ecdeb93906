package pds

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var png = append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{1}, 100)...)

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
