package pgdev

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Tar archives made by: tar -cJf build.txz bin share (two scripts that tell version 16.99, a
// file and a link); escape.txz has a link to .. and an entry that goes through it.
var (
	//go:embed testdata/build.txz
	buildTxz []byte
	//go:embed testdata/escape.txz
	escapeTxz []byte
)

type transport func(*http.Request) *http.Response

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

func answer(status int, body []byte) transport {
	return func(r *http.Request) *http.Response {
		return &http.Response{
			StatusCode: status, Status: http.StatusText(status), Header: http.Header{},
			Body: io.NopCloser(bytes.NewReader(body)), Request: r,
		}
	}
}

func jar(t *testing.T, txz []byte) ([]byte, artifact) {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, body := range map[string][]byte{"META-INF/MANIFEST.MF": nil, "postgres-any.txz": txz} {
		w, err := z.Create(name)
		require.NoError(t, err)
		_, err = w.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	sum := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), artifact{platform: "any", sha256: hex.EncodeToString(sum[:])}
}

func TestDownloadUnpacksThePinnedBuild(t *testing.T) {
	t.Parallel()
	body, a := jar(t, buildTxz)
	dir := filepath.Join(t.TempDir(), "cache", "build")
	var asked string
	rt := transport(func(r *http.Request) *http.Response {
		asked = r.URL.String()
		return answer(http.StatusOK, body)(r)
	})
	log := slog.New(slog.DiscardHandler)
	require.NoError(t, download(t.Context(), log, rt, a, "http://repo.test", dir))
	assert.Equal(t, "http://repo.test/io/zonky/test/postgres/embedded-postgres-binaries-any/"+pinnedVersion+
		"/embedded-postgres-binaries-any-"+pinnedVersion+".jar", asked)
	b, err := inspect(t.Context(), filepath.Join(dir, "bin"))
	require.NoError(t, err)
	assert.Equal(t, 16, b.major)
	assert.FileExists(t, filepath.Join(dir, "share", "linked"))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "the database's user must get in")
}

func TestDownloadRefusesAnythingElse(t *testing.T) {
	t.Parallel()
	good, a := jar(t, buildTxz)
	escaping, escapingArtifact := jar(t, escapeTxz)
	empty, emptyArtifact := jar(t, nil)
	for name, c := range map[string]struct {
		rt   transport
		a    artifact
		want string
	}{
		"other bytes":   {answer(http.StatusOK, append(bytes.Clone(good), 0)), a, ErrChecksum.Error()},
		"missing":       {answer(http.StatusNotFound, nil), a, "Not Found"},
		"too large":     {answer(http.StatusOK, make([]byte, maxArchive+1)), a, "larger than"},
		"leads outside": {answer(http.StatusOK, escaping), escapingArtifact, "escape"},
		"not xz":        {answer(http.StatusOK, empty), emptyArtifact, "unpack"},
	} {
		dir := filepath.Join(t.TempDir(), "build")
		err := download(t.Context(), slog.New(slog.DiscardHandler), c.rt, c.a, "http://repo.test", dir)
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), c.want, name)
		left, err := os.ReadDir(filepath.Dir(dir))
		require.NoError(t, err)
		assert.Empty(t, left, "%s: nothing half made stays", name)
	}
}

func TestEveryPinIsWhole(t *testing.T) {
	t.Parallel()
	assert.True(t, strings.HasPrefix(pinnedVersion, "16."))
	assert.Equal(t, 16, pinnedMajor)
	for platform, a := range pinned {
		sum, err := hex.DecodeString(a.sha256)
		require.NoError(t, err, platform)
		assert.Len(t, sum, sha256.Size, platform)
	}
}
