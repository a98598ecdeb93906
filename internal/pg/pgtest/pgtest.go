// Package pgtest gives tests a real PostgreSQL: one private server per test binary, and an
// empty database per call, so that tests run in parallel and share nothing, advisory locks
// and notifications included.
//
// The server lives in the system's temporary folder with durability off. It and its folder
// go when the test binary ends, however it ends.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgdev"
)

// SchemaName is the schema that Schema migrates.
const SchemaName = "test"

// maxConns keeps many parallel tests within the server's connections.
const maxConns = 8

// Schema returns a pool on a fresh schema of its own database with the migrations applied.
// At the test's end the pool is closed and the database dropped.
func Schema(t testing.TB, migrations fs.FS) *pgxpool.Pool {
	t.Helper()
	pool := Open(t, DSN(t), SchemaName)
	if err := pg.Migrate(t.Context(), pool, SchemaName, migrations); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return pool
}

// Open returns a pool on one schema of a database that DSN gave, closed at the test's end.
// Services that share a database in production can share one here.
func Open(t testing.TB, dsn, schema string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), dsn+"&pool_max_conns="+strconv.Itoa(maxConns), schema)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// DSN returns the address of a fresh empty database, dropped at the test's end.
func DSN(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("pgtest: start server: %v", err)
	}
	name := "t_" + strings.ToLower(rand.Text())
	if err := s.exec(t.Context(), "create database "+name); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		// The test's context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.exec(ctx, "drop database "+name+" with (force)"); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return s.dev.DSN(name)
}

type server struct {
	dev *pgdev.Server
	dir string
	// leash is open as long as this process lives. It is held here because a file that
	// nothing refers to is closed by the garbage collector.
	leash *os.File

	mu    sync.Mutex // guards admin: one database is made or dropped at a time
	admin *pgx.Conn
}

func (s *server) exec(ctx context.Context, sql string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin == nil || s.admin.IsClosed() { // a cancelled context closes a connection
		conn, err := pgx.Connect(ctx, s.dev.DSN("postgres"))
		if err != nil {
			return err
		}
		s.admin = conn
	}
	_, err := s.admin.Exec(ctx, sql)
	return err
}

// shared starts the binary's one server on first use.
var shared = sync.OnceValues(start)

func start() (*server, error) {
	dir, err := os.MkdirTemp("", "citysync-pgtest-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // under root another user runs the server
		return nil, err
	}
	dev, err := pgdev.Start(context.Background(), pgdev.Config{
		DataDir:   dir,
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Throwaway: true,
		Template:  filepath.Join(os.TempDir(), fmt.Sprintf("citysync-pgtemplate-%d", os.Geteuid())),
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	leash, err := sweepAtExit(dir, dev)
	if err != nil {
		return nil, errors.Join(err, dev.Stop())
	}
	return &server{dev: dev, dir: dir, leash: leash}, nil
}

// sweepAtExit leaves a small shell behind that removes the folder when this process is gone:
// a test binary ends by os.Exit, a timeout's panic or a signal, and none of these runs code
// of ours. The shell learns it from a pipe whose other end, the result, only this process
// holds open.
func sweepAtExit(dir string, dev *pgdev.Server) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	const script = `read word
i=0
while [ -e "$1/cluster/postmaster.pid" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
rm -rf "$1" "$2"`
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, "sweep", dir, dev.Socket())
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests
	err = cmd.Start()
	_ = r.Close() // the shell has its own copy
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}
