// Package pgdev runs a private PostgreSQL server as a child of this process: the embedded
// default of every command that is given no database address.
//
// What holds:
//
//   - D1: the server listens on one Unix socket in a folder only its user can enter, and
//     on no network address.
//   - D2: one process at a time owns a data folder (a lock on it says which). The child
//     dies with that process, kill -9 included.
//   - D3: a cluster appears in the data folder whole or not at all; a crash in the middle
//     of its making leaves nothing that the next start would take for one.
//   - D4: data is never deleted and never upgraded here. A folder of another major
//     version, or one its user cannot reach, is refused with the way out.
//   - D5: PostgreSQL does not run as root, so under root the child is user postgres, or
//     nobody where there is no such user; a cluster that exists keeps its owner.
package pgdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database is the database that Start makes sure exists.
const Database = "citysync"

const (
	superuser = "citysync"
	// port names the socket file only; nothing listens on it.
	port = "5432"
	// startLimit is long because a server that died in the middle of work first replays its log.
	startLimit = 2 * time.Minute
	// stopLimit bounds a fast shutdown, which writes a last checkpoint.
	stopLimit = 30 * time.Second
	killLimit = 5 * time.Second
	pollEvery = 20 * time.Millisecond
)

// Final refusals: each needs a person to change something first.
var (
	ErrInUse       = errors.New("data folder is in use by another process")
	ErrUnreachable = errors.New("data folder cannot be reached by the database's user")
	ErrVersion     = errors.New("data folder belongs to another major version of PostgreSQL")
	ErrNotFound    = errors.New("no PostgreSQL server of version 14 or newer found")
)

// Config says where and how the server runs. DataDir and Log are required.
type Config struct {
	DataDir string       // made if missing; the cluster is its subfolder "cluster"
	Log     *slog.Logger // the server's own lines: warnings and worse at Warn, others at Debug

	BinDir   string // folder with initdb and postgres; found or fetched when empty
	CacheDir string // where a fetched build is kept; the user's or the system's cache when empty

	// Throwaway is for tests: durability off, more connections, and immediate death. Data
	// written under it does not survive a crash.
	Throwaway bool
	// Template, for tests, is a folder in which a new cluster is kept for copying, so that
	// only the first of many starts pays for initdb. Processes may share it.
	Template string
}

// Server is a running private server.
type Server struct {
	log     *slog.Logger
	dataDir string
	socket  string // folder
	lock    *os.File
	child   *child
	stop    func() error
}

// Start makes the cluster if there is none, starts the server and returns when it accepts
// connections and Database exists. ctx bounds the start only. The caller stops the server.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil || cfg.DataDir == "" {
		return nil, fmt.Errorf("data folder %q: %w", cfg.DataDir, errors.Join(err, os.ErrInvalid))
	}
	who, err := prepareFolder(dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, "lock"), false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	s := &Server{log: cfg.Log, dataDir: dir, lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()

	cluster := filepath.Join(dir, "cluster")
	have, err := clusterVersion(cluster)
	if err != nil {
		return nil, err
	}
	bin, err := locate(ctx, cfg, have)
	if err != nil {
		return nil, err
	}
	if err := clearStale(ctx, cfg.Log, dir, cluster); err != nil {
		return nil, err
	}
	if have == 0 {
		if err := create(ctx, cfg, bin, who, cluster); err != nil {
			return nil, err
		}
	} else if err := who.own(cluster); err != nil {
		return nil, err
	}
	if s.socket, err = socketFolder(dir, who); err != nil {
		return nil, err
	}
	if err := s.launchAfterOthers(ctx, cfg, bin, who, cluster); err != nil {
		return nil, err
	}
	cfg.Log.Info("private database started", "version", bin.version, "data", cluster, "user", who.name)
	return s, nil
}

// errSessions means that sessions of a server that was killed have not ended yet.
var errSessions = errors.New("sessions of the server before this one still run")

// launchAfterOthers launches as soon as the sessions of a server that was killed have noticed that it is gone. PostgreSQL
// refuses to start beside them, at once and without waiting.
func (s *Server) launchAfterOthers(ctx context.Context, cfg Config, bin binaries, who account, cluster string) error {
	tick := time.NewTicker(5 * pollEvery)
	defer tick.Stop()
	for said := false; ; said = true {
		err := s.launch(ctx, cfg, bin, who, cluster)
		if !errors.Is(err, errSessions) {
			return err
		}
		if !said {
			cfg.Log.Warn("waiting for the sessions of a database that was killed")
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (s *Server) launch(ctx context.Context, cfg Config, bin binaries, who account, cluster string) error {
	args := []string{
		"-D", cluster,
		"-k", s.socket,
		"-p", port,
		"-c", "listen_addresses=",
		"-c", "unix_socket_permissions=0700",
		"-c", "log_destination=stderr",
		"-c", "logging_collector=off",
		"-c", "log_line_prefix=",
		// Statements and key values may hold what no log line may hold.
		"-c", "log_min_error_statement=panic",
		"-c", "log_error_verbosity=terse",
	}
	death := syscall.SIGINT // fast shutdown
	if cfg.Throwaway {
		death = syscall.SIGQUIT // immediate
		args = append(args,
			"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
			"-c", "max_connections=300", "-c", "shared_buffers=64MB", "-c", "autovacuum=off",
			"-c", "max_wal_size=4GB")
	}
	c, err := startChild(childConfig{
		path: filepath.Join(bin.dir, "postgres"), args: args, dir: cluster,
		who: who, log: s.log, death: death,
	})
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	s.child = c
	s.stop = sync.OnceValue(func() error { return s.shutdown(cfg.Throwaway) })
	if err := s.awaitReady(ctx); err != nil {
		_ = c.shutdown(true) // err says it already
		return err
	}
	return nil
}

// DSN is the address of one database of this server, for pgx in this process or another
// of the same user. Further parameters may be appended with "&name=value".
func (s *Server) DSN(db string) string {
	return "postgres:///" + url.PathEscape(db) + "?" + url.Values{
		"host": {s.socket}, "port": {port}, "user": {superuser},
	}.Encode()
}

// Socket is the folder of the server's socket, removed when the server is stopped.
func (s *Server) Socket() string { return s.socket }

// Done is closed when the server has ended, whether it was stopped or died.
func (s *Server) Done() <-chan struct{} { return s.child.done }

// Stop shuts the server down: open sessions are cut, everything committed is on disk. It
// returns an error when the server had died before or had to be killed. Further calls
// return the same.
func (s *Server) Stop() error { return s.stop() }

func (s *Server) shutdown(throwaway bool) error {
	err := s.child.shutdown(throwaway)
	return errors.Join(err, s.release())
}

// release gives back what Start took, the lock last.
func (s *Server) release() error {
	var errs []error
	if s.socket != "" {
		errs = append(errs, os.RemoveAll(s.socket), removeIfThere(filepath.Join(s.dataDir, socketNote)))
		s.socket = ""
	}
	if s.lock != nil {
		errs = append(errs, unlock(s.lock))
		s.lock = nil
	}
	return errors.Join(errs...)
}

// awaitReady polls until a session opens: the socket file appears before the server
// accepts, and a recovery may stand between.
func (s *Server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := s.ensureDatabase(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.child.done:
			said := s.child.lastWords()
			if strings.Contains(said, "pre-existing shared memory block") {
				return fmt.Errorf("%w:\n%s", errSessions, said)
			}
			return fmt.Errorf("postgres ended while starting: %w\n%s", s.child.failure(), said)
		case <-ctx.Done():
			return fmt.Errorf("postgres did not become ready: %w (last: %w)\n%s", ctx.Err(), err, s.child.lastLines())
		case <-tick.C:
		}
	}
}

func (s *Server) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is pending on it
	var there bool
	const look = `select exists (select from pg_database where datname = $1)`
	if err := conn.QueryRow(ctx, look, Database).Scan(&there); err != nil || there {
		return err
	}
	_, err = conn.Exec(ctx, `create database `+Database)
	return err
}

// clusterVersion is the major version of the cluster in the folder, 0 when there is none.
func clusterVersion(cluster string) (int, error) {
	b, err := os.ReadFile(filepath.Join(cluster, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cluster version: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v <= 0 {
		return 0, fmt.Errorf("%s holds %.20q, no major version: %w", filepath.Join(cluster, "PG_VERSION"), b, ErrVersion)
	}
	return v, nil
}

// create makes a new cluster beside its place and moves it there when it is whole (D3).
func create(ctx context.Context, cfg Config, bin binaries, who account, cluster string) error {
	fresh := cluster + ".new"
	if err := os.RemoveAll(fresh); err != nil { // what an interrupted start left
		return fmt.Errorf("clear %s: %w", fresh, err)
	}
	if cfg.Template != "" {
		if err := copyTemplate(ctx, cfg, bin, who, fresh); err != nil {
			return fmt.Errorf("copy template cluster: %w", err)
		}
	} else if err := initdb(ctx, bin, who, fresh, nil); err != nil {
		return err
	}
	// An empty folder at the final place is no cluster; rename replaces it.
	if err := os.Rename(fresh, cluster); err != nil {
		return fmt.Errorf("move new cluster into place: %w", err)
	}
	return nil
}

func initdb(ctx context.Context, bin binaries, who account, dir string, extra []string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make cluster folder: %w", err)
	}
	if err := who.own(dir); err != nil {
		return err
	}
	args := append([]string{
		"-D", dir, "-U", superuser, "-E", "UTF8", "--locale=C", "-A", "trust",
		"--data-checksums", "--no-instructions",
	}, extra...)
	cmd := exec.CommandContext(ctx, filepath.Join(bin.dir, "initdb"), args...)
	cmd.Env = environ()
	cmd.Dir = dir
	cmd.SysProcAttr = who.attr()
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("run %s in %s as %s: %w", cmd.Path, dir, who.name, err)
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// environ is the child's whole environment: the caller's PG* variables must not reach it.
func environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
