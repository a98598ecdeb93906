package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A data folder of this program has a mark file. Only a marked folder is emptied by
// --fresh, and only an empty or marked one is used at all.
const (
	markFile = ".citysync"
	markText = "citysync data folder, version 1\n"
)

// refusal is a command refused by name; the name is part of the contract.
type refusal struct {
	name, text string
}

func (r *refusal) Error() string { return r.name + ": " + r.text }

func refuse(name, format string, a ...any) error {
	return &refusal{name, fmt.Sprintf(format, a...)}
}

func refusedAs(err error, name string) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.name == name
}

// dataDir is an open, marked and locked data folder.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes or opens the folder. The lock lasts as long as the process, a
// crash included.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(path, folderMode()); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := checkMark(path); err != nil {
		return nil, err
	}
	if err := writeAtomic(filepath.Join(path, markFile), []byte(markText), 0o600); err != nil {
		return nil, fmt.Errorf("mark the data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // it was never ours
		return nil, refuse("InUse", "another citysync works in %s", path)
	}
	return &dataDir{path: path, lock: lock}, nil
}

// folderMode lets others pass through, not look: the user of a private PostgreSQL
// has a folder further down. Every file with a secret is 0600 by itself.
func folderMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

func checkMark(path string) error {
	mark, err := os.ReadFile(filepath.Join(path, markFile))
	if err == nil {
		if !strings.HasPrefix(string(mark), "citysync data folder") {
			return refuse("NotOurs", "%s carries a mark that is not this program's", path)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the mark of the data folder: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the data folder: %w", err)
	}
	if len(entries) > 0 {
		return refuse("NotOurs", "%s is not empty and carries no mark of this program; nothing in it was touched", path)
	}
	return nil
}

// empty removes everything but the mark and the lock, the state first: a crash in
// between leaves a folder that starts anew, never half of an old city.
func (d *dataDir) empty() error {
	if err := os.RemoveAll(d.file(stateFile)); err != nil {
		return fmt.Errorf("empty the data folder: %w", err)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("empty the data folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == markFile || e.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(d.file(e.Name())); err != nil {
			return fmt.Errorf("empty the data folder: %w", err)
		}
	}
	return nil
}

func (d *dataDir) close() { _ = d.lock.Close() } // closing gives the lock back

func (d *dataDir) file(name ...string) string {
	return filepath.Join(append([]string{d.path}, name...)...)
}

// secret reads a secret file of the data folder, 64 hex digits, and makes it on first use.
func (d *dataDir) secret(name string) ([]byte, error) {
	path := d.file("secrets", name)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, 32)
		rand.Read(key)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		if err := writeAtomic(path, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return parseSecret(path, raw)
}

func parseSecret(path string, raw []byte) ([]byte, error) {
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("secret file %s does not hold 64 hex digits", path)
	}
	return key, nil
}

// readSecretFile reads a secret that an operator keeps; a file that others may read is refused.
func readSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, refuse("SecretExposed", "%s can be read by others: chmod 600 it", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	return raw, nil
}

// writeAtomic writes under a temporary name and renames, so that a reader sees the
// old file or the new one, whole; it is on disk when writeAtomic returns.
func writeAtomic(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // after the rename there is nothing to remove
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
