package pgdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// socketNote is the file in the data folder that names the socket folder, so that the
	// next start can clear away what a killed process left.
	socketNote   = "socket"
	socketPrefix = "citysync-pg-"
	// socketMax is the longest path of a Unix socket: 108 bytes with its final zero on Linux,
	// 104 on macOS.
	socketMax = 103
)

// lockFile takes an exclusive lock that ends with the returned file, or with this process.
func lockFile(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unlock lets go of a lock at once. Closing the file alone would leave it to a child that another goroutine is just starting, which has
// all files of this process for a moment.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// clearStale deals with what a killed process left. The caller holds the folder's lock, so
// a server that still runs here has lost its parent: it is on its way out, or is sent there.
func clearStale(ctx context.Context, log *slog.Logger, dir, cluster string) error {
	pidFile := filepath.Join(cluster, "postmaster.pid")
	b, err := os.ReadFile(pidFile)
	if err == nil {
		first, _, _ := strings.Cut(string(b), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		if err == nil && pid > 1 && serves(ctx, pid, cluster) {
			log.Warn("stopping a database that lost its parent", "pid", pid)
			if err := endOrphan(ctx, pid, cluster); err != nil {
				return err
			}
		}
		// PostgreSQL itself mistakes a number that another process has by now for its own.
		if err := removeIfThere(pidFile); err != nil {
			return fmt.Errorf("remove stale pid file: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pid file: %w", err)
	}

	note, err := os.ReadFile(filepath.Join(dir, socketNote))
	if err == nil {
		old := strings.TrimSpace(string(note))
		if filepath.IsAbs(old) && strings.HasPrefix(filepath.Base(old), socketPrefix) {
			if err := os.RemoveAll(old); err != nil {
				log.Warn("old socket folder stays", "path", old, "error", err)
			}
		}
	}
	return nil
}

// serves tells whether pid is a PostgreSQL server of this cluster, and not another process
// that got its number later.
func serves(ctx context.Context, pid int, cluster string) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil {
		real, err := filepath.EvalSymlinks(cluster) // a server works inside its cluster
		return err == nil && cwd == real
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), cluster)
}

func endOrphan(ctx context.Context, pid int, cluster string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop database without parent (pid %d): %w", pid, err)
	}
	for serves(ctx, pid, cluster) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("database without parent (pid %d) does not stop: %w", pid, ErrInUse)
		case <-tick.C:
		}
	}
	return nil
}

// socketFolder makes a folder that only the account may enter. It stands in the system's
// temporary folder because the data folder's path can be longer than a socket's may.
func socketFolder(dir string, who account) (string, error) {
	base := os.TempDir()
	const longest = socketPrefix + "0123456789" + "/.s.PGSQL." + port + ".lock"
	if len(base)+1+len(longest) > socketMax || (who.drop && barrier(base, who.uid, who.gid) != "") {
		base = "/tmp"
	}
	socket, err := os.MkdirTemp(base, socketPrefix)
	if err != nil {
		return "", fmt.Errorf("make socket folder: %w", err)
	}
	if err := who.own(socket); err != nil {
		return "", errors.Join(err, os.RemoveAll(socket))
	}
	if err := os.WriteFile(filepath.Join(dir, socketNote), []byte(socket+"\n"), 0o600); err != nil {
		return "", errors.Join(fmt.Errorf("note socket folder: %w", err), os.RemoveAll(socket))
	}
	return socket, nil
}
