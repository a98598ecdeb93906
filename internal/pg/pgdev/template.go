package pgdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"city-sync.org/citysync/internal/clock"
)

// copyTemplate copies the cached cluster of this version and user to dir, making the cached
// one first where it is missing. Processes that start together take turns at that.
func copyTemplate(ctx context.Context, cfg Config, bin binaries, who account, dir string) error {
	if err := os.MkdirAll(cfg.Template, 0o755); err != nil {
		return err
	}
	// The path is guessable: a folder that someone else made, or may write, is not ours.
	info, err := os.Stat(cfg.Template)
	if err != nil {
		return err
	}
	if uid, _, ok := ownerOf(cfg.Template); !ok || uid != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not this user's alone: %w", cfg.Template, os.ErrPermission)
	}
	cached := filepath.Join(cfg.Template, fmt.Sprintf("%s-uid%d", bin.version, who.uid))
	lock, err := lockFile(filepath.Join(cfg.Template, "lock"), true)
	if err != nil {
		return err
	}
	err = ensureTemplate(ctx, bin, who, cached)
	if err == nil {
		err = copyTree(cached, dir) // under the lock: another process may be about to renew it
	}
	if err = errors.Join(err, unlock(lock)); err != nil {
		return err
	}
	return who.own(dir)
}

// templateAge is how long a cached cluster is used: systems clear old files out of their
// temporary folder one by one, and half a cluster looks like one.
const templateAge = 24 * time.Hour

func ensureTemplate(ctx context.Context, bin binaries, who account, cached string) error {
	v, err := clusterVersion(cached)
	if err == nil && v == bin.major {
		info, err := os.Stat(cached)
		if err == nil && clock.System().Now().Sub(info.ModTime()) < templateAge {
			return nil
		}
	}
	if err := os.RemoveAll(cached); err != nil {
		return err
	}
	fresh := cached + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	// Small log segments: less to copy each time.
	if err := initdb(ctx, bin, who, fresh, []string{"--wal-segsize=1", "--no-sync"}); err != nil {
		return err
	}
	return os.Rename(fresh, cached)
}

// copyTree copies folders and plain files; a cluster without tablespaces has nothing else.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o700)
		case d.Type().IsRegular():
			return copyFile(path, target)
		default:
			return fmt.Errorf("%s is no plain file", path)
		}
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // read only
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
