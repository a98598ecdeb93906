package pgdev

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/xi2/xz"
)

// The build is the one that fergusstrange/embedded-postgres uses, zonky's on Maven Central.
// That package itself is not called: it fetches only as the first half of running the
// database its own way (it deletes data on a version change and cannot run as root), it
// checks the download against a checksum from the same server, and it has no time limit.
// So the download is done here, against checksums that stand in this file.
const (
	pinnedVersion = "16.15.0"
	pinnedMajor   = 16
	repository    = "https://repo1.maven.org/maven2"

	fetchLimit  = 5 * time.Minute
	maxArchive  = 64 << 20
	maxUnpacked = 512 << 20
	maxFiles    = 10_000
)

// pinned maps GOOS/GOARCH to the archive for it.
var pinned = map[string]artifact{
	"linux/amd64":  {"linux-amd64", "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"},
	"linux/arm64":  {"linux-arm64v8", "f846a9989d686b7977d6eca9bc9d8b2b69e3f70c7eb60e032197d9c574a6136c"},
	"darwin/amd64": {"darwin-amd64", "1229188b99515d2160d5cb6222bc96d9c5f3a248268df3bc2dfe0047e6c233d8"},
	"darwin/arm64": {"darwin-arm64v8", "65b953905f0a4d46030767a6b44a52360170d69a7985f1b02aa435f2f6256a83"},
}

type artifact struct{ platform, sha256 string }

func (a artifact) name() string { return "embedded-postgres-binaries-" + a.platform }

// url follows the layout of a Maven repository.
func (a artifact) url(base string) string {
	return fmt.Sprintf("%s/io/zonky/test/postgres/%[2]s/%[3]s/%[2]s-%[3]s.jar", base, a.name(), pinnedVersion)
}

// ErrChecksum is final: what came is not the pinned build.
var ErrChecksum = errors.New("checksum differs from the pinned one")

// fetch returns the pinned build, from the cache or else from the network.
func fetch(ctx context.Context, cfg Config) (binaries, error) {
	a, ok := pinned[runtime.GOOS+"/"+runtime.GOARCH]
	if _, err := os.Stat("/etc/alpine-release"); err == nil {
		ok = false // these builds need glibc
	}
	if !ok {
		return binaries{}, fmt.Errorf("%w, and no build is pinned for %s/%s: install PostgreSQL, or give the address of a running server with --database-url",
			ErrNotFound, runtime.GOOS, runtime.GOARCH)
	}
	cache := cfg.CacheDir
	if cache == "" {
		var err error
		if cache, err = defaultCache(); err != nil {
			return binaries{}, err
		}
	}
	dir := filepath.Join(cache, a.name()+"-"+pinnedVersion)
	if b, err := inspect(ctx, filepath.Join(dir, "bin")); err == nil {
		return b, nil
	}
	if err := download(ctx, cfg.Log, http.DefaultTransport, a, repository, dir); err != nil {
		return binaries{}, fmt.Errorf("%w, and fetching version %s did not work: %w. Install PostgreSQL, or give the address of a running server with --database-url",
			ErrNotFound, pinnedVersion, err)
	}
	return inspect(ctx, filepath.Join(dir, "bin"))
}

// defaultCache is a folder that the database's user can enter too: root's home is closed.
func defaultCache() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/citysync", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder: %w", err)
	}
	return filepath.Join(dir, "citysync"), nil
}

// download fetches, checks and unpacks one archive to dir. The folder appears whole.
func download(ctx context.Context, log *slog.Logger, rt http.RoundTripper, a artifact, base, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	log.Info("no PostgreSQL server on this machine, fetching one", "url", a.url(base), "to", dir)
	body, err := get(ctx, rt, a.url(base))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != a.sha256 {
		return fmt.Errorf("%s: %w: got %x", a.url(base), ErrChecksum, sum)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-")
	if err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone after the rename; a leftover does no harm
	if err := unpackJar(body, tmp); err != nil {
		return fmt.Errorf("unpack %s: %w", a.name(), err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // the database's user must enter
		return err
	}
	err = os.Rename(tmp, dir)
	if errors.Is(err, os.ErrExist) {
		return nil // another process was faster
	}
	return err
}

func get(ctx context.Context, rt http.RoundTripper, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxArchive+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	if len(body) > maxArchive {
		return nil, fmt.Errorf("%s is larger than %d bytes", url, maxArchive)
	}
	return body, nil
}

// unpackJar unpacks the one .txz inside the jar.
func unpackJar(body []byte, dir string) error {
	jar, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	for _, f := range jar.File {
		if path.Ext(f.Name) != ".txz" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		return unpackTar(r, dir)
	}
	return errors.New("no .txz in the archive")
}

func unpackTar(r io.Reader, dir string) error {
	x, err := xz.NewReader(r, 0)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no entry leads out of it, by whatever name or link
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // a folder handle
	tr := tar.NewReader(io.LimitReader(x, maxUnpacked))
	for range maxFiles {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(root, h, tr); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return fmt.Errorf("more than %d files", maxFiles)
}

func unpackEntry(root *os.Root, h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(path.Clean(h.Name), "/")
	if name == "." {
		return nil
	}
	if h.Typeflag != tar.TypeDir {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|h.FileInfo().Mode()&0o111)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r) // bounded by maxUnpacked above
		return errors.Join(err, f.Close())
	default:
		return nil // nothing else is needed to run it
	}
}
