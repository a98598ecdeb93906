package pgdev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary play other processes: CITYSYNC_TEST_ROLE says which.
func TestMain(m *testing.M) {
	switch os.Getenv("CITYSYNC_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "hold": // start a server and wait to be killed
		s, err := Start(context.Background(), testConfig(os.Args[1]))
		exitOn(err)
		fmt.Println(s.child.process.Pid)
	case "watch": // have a process watched by pipe and wait to be killed
		pid, err := strconv.Atoi(os.Args[1])
		exitOn(err)
		exitOn(watchByPipe(pid, syscall.SIGTERM, make(chan struct{})))
		fmt.Println(pid)
	case "once": // the whole life of a server
		s, err := Start(context.Background(), testConfig(os.Args[1]))
		exitOn(err)
		exitOn(s.Stop())
		fmt.Println(os.Geteuid())
		os.Exit(0)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test kills this process
	os.Exit(3)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func testConfig(dir string) Config {
	return Config{
		DataDir:   dir,
		Log:       slog.New(slog.DiscardHandler),
		Throwaway: true,
		Template:  filepath.Join(os.TempDir(), fmt.Sprintf("citysync-pgtemplate-%d", os.Geteuid())),
	}
}

// folder is a temporary folder that other users may enter; t.TempDir is closed to them.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "citysync-pgdev-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	return s
}

func query(t *testing.T, s *Server, sql string) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN(Database))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text))
	return text
}

// play runs this binary in another role and returns its first line.
func play(t *testing.T, role, binary, arg string, attr *syscall.SysProcAttr) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(binary, arg)
	cmd.Env = append(os.Environ(), "CITYSYNC_TEST_ROLE="+role)
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	_, err := cmd.StdinPipe() // held open until the process ends
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		require.NoError(t, err, "role %s: %s", role, stderr.String())
	}
	return cmd, strings.TrimSpace(line)
}

// gone tells whether a process has ended; one that nobody has waited for yet counts.
func gone(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(rest, "Z")
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestDataOutlivesTheServerAndDurabilityIsOn(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: folder(t), Log: slog.New(slog.DiscardHandler)}
	s := start(t, cfg)
	assert.Equal(t, "on", query(t, s, `select current_setting('fsync')`))
	assert.Equal(t, "on", query(t, s, `select current_setting('data_checksums')`))
	assert.Empty(t, query(t, s, `select current_setting('listen_addresses')`)) // D1
	assert.Equal(t, "UTF8", query(t, s, `select current_setting('server_encoding')`))
	query(t, s, `with x as (select 1) select 'kept' from x`)
	conn, err := pgx.Connect(t.Context(), s.DSN(Database))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `create table kept as select 'yes' as word`)
	require.NoError(t, err)

	require.NoError(t, s.Stop(), "an open session does not hold up a stop")
	require.NoError(t, s.Stop(), "a second stop tells the same")
	<-s.Done()
	assert.NoDirExists(t, s.Socket())

	again := start(t, cfg)
	assert.Equal(t, "yes", query(t, again, `select word from kept`))
	require.NoError(t, again.Stop())
}

func TestSocketIsShortAndClosedToOthers(t *testing.T) { // D1
	t.Parallel()
	deep := filepath.Join(folder(t), strings.Repeat("a-rather-long-folder-name/", 8))
	s := start(t, testConfig(deep))
	path := filepath.Join(s.Socket(), ".s.PGSQL."+port)
	assert.LessOrEqual(t, len(path), 107)
	for _, p := range []string{s.Socket(), path} {
		info, err := os.Stat(p)
		require.NoError(t, err)
		assert.Zero(t, info.Mode().Perm()&0o077, p)
	}
}

func TestSecondStartOnAFolderIsRefused(t *testing.T) { // D2
	t.Parallel()
	cfg := testConfig(folder(t))
	s := start(t, cfg)
	_, err := Start(t.Context(), cfg)
	require.ErrorIs(t, err, ErrInUse)
	assert.Equal(t, "1", query(t, s, `select '1'`), "the first goes on")
}

func TestKillOfTheParentLeavesNoChild(t *testing.T) { // D2
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := folder(t)
	cmd, line := play(t, "hold", self, dir, nil)
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	require.False(t, gone(pid))
	old, err := os.ReadFile(filepath.Join(dir, socketNote))
	require.NoError(t, err)

	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return gone(pid) }, 10*time.Second, 10*time.Millisecond)

	start(t, testConfig(dir))
	assert.NoDirExists(t, strings.TrimSpace(string(old)), "the killed server's socket is cleared away")
}

func TestWatcherByPipeEndsTheProcessOfADeadParent(t *testing.T) { // D2, where the kernel does not
	t.Parallel()
	sleeper := exec.Command("sleep", "600")
	require.NoError(t, sleeper.Start())
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	t.Cleanup(func() { _ = sleeper.Process.Kill() })

	self, err := os.Executable()
	require.NoError(t, err)
	cmd, _ := play(t, "watch", self, strconv.Itoa(sleeper.Process.Pid), nil)
	require.NoError(t, cmd.Process.Kill())
	select {
	case err := <-ended:
		assert.ErrorContains(t, err, "terminated")
	case <-time.After(10 * time.Second):
		t.Fatal("the process outlived its parent")
	}
}

func TestDeathOfTheServerIsNoticed(t *testing.T) {
	t.Parallel()
	cfg := testConfig(folder(t))
	s := start(t, cfg)
	require.NoError(t, s.child.process.Kill())
	<-s.Done()
	require.ErrorContains(t, s.Stop(), "ended before it was stopped")

	// Its pid file stays behind; give it the number of a process that lives.
	pidFile := filepath.Join(cfg.DataDir, "cluster", "postmaster.pid")
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), "\n")
	require.NoError(t, os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600))
	again := start(t, cfg)
	assert.Equal(t, "1", query(t, again, `select '1'`))
}

// onWarning calls fn for each warning, so that a test knows what a start is waiting for.
type onWarning struct {
	slog.Handler
	fn func(message string)
}

func (h onWarning) Enabled(context.Context, slog.Level) bool { return true }

func (h onWarning) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		h.fn(r.Message)
	}
	return nil
}

func TestStartWaitsForTheSessionsOfAKilledServer(t *testing.T) {
	t.Parallel()
	cfg := testConfig(folder(t))
	s := start(t, cfg)
	conn, err := pgx.Connect(t.Context(), s.DSN(Database))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var session int
	require.NoError(t, conn.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&session))
	require.NoError(t, syscall.Kill(session, syscall.SIGSTOP), "a session that does not notice for a while")
	goOn := func() { _ = syscall.Kill(session, syscall.SIGCONT) }
	defer goOn()

	require.NoError(t, s.child.process.Kill())
	<-s.Done()
	require.Error(t, s.Stop())
	cfg.Log = slog.New(onWarning{slog.DiscardHandler, func(message string) {
		if strings.HasPrefix(message, "waiting for the sessions") {
			goOn()
		}
	}})
	query(t, start(t, cfg), `select 'open'`)
}

func TestServerWithoutParentIsStoppedFirst(t *testing.T) { // D2
	t.Parallel()
	cfg := testConfig(folder(t))
	orphan := start(t, cfg)
	require.NoError(t, unlock(orphan.lock)) // as if the process that held it were gone
	orphan.lock = nil
	heir := start(t, cfg)
	<-orphan.Done()
	assert.Equal(t, "1", query(t, heir, `select '1'`))
}

func TestInterruptedMakingIsStartedOver(t *testing.T) { // D3
	t.Parallel()
	cfg := testConfig(folder(t))
	half := filepath.Join(cfg.DataDir, "cluster.new")
	require.NoError(t, os.MkdirAll(half, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600))
	start(t, cfg)
	assert.NoDirExists(t, half)
}

func TestOtherMajorVersionIsRefusedUntouched(t *testing.T) { // D4
	t.Parallel()
	for _, version := range []string{"9", "99"} {
		cfg := testConfig(folder(t))
		mark := filepath.Join(cfg.DataDir, "cluster", "PG_VERSION")
		require.NoError(t, os.MkdirAll(filepath.Dir(mark), 0o755))
		require.NoError(t, os.WriteFile(mark, []byte(version+"\n"), 0o600))
		_, err := Start(t.Context(), cfg)
		require.ErrorIs(t, err, ErrVersion)
		require.ErrorContains(t, err, "Install the server of PostgreSQL "+version)
		assert.FileExists(t, mark)
	}
}

func TestFolderBehindAClosedOneIsRefused(t *testing.T) { // D4
	t.Parallel()
	if os.Geteuid() != 0 { // an ordinary user's server runs as that user: nothing is closed to it
		assert.Empty(t, barrier("/", os.Geteuid(), os.Getegid()))
		return
	}
	closed := filepath.Join(folder(t), "home")
	require.NoError(t, os.Mkdir(closed, 0o700))
	_, err := Start(t.Context(), testConfig(filepath.Join(closed, "data")))
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, "may not enter "+closed)
	assert.ErrorContains(t, err, "/var/lib/citysync")
}

func TestClusterKeepsItsOwner(t *testing.T) { // D5
	t.Parallel()
	cfg := testConfig(folder(t))
	s := start(t, cfg)
	require.NoError(t, s.Stop())
	cluster := filepath.Join(cfg.DataDir, "cluster")
	uid, _, ok := ownerOf(cluster)
	require.True(t, ok)
	if os.Geteuid() != 0 {
		assert.Equal(t, os.Geteuid(), uid)
		return
	}
	assert.NotZero(t, uid)
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	other, err := strconv.Atoi(nobody.Uid)
	require.NoError(t, err)
	require.NoError(t, account{uid: other, gid: other, drop: true}.own(cluster))
	start(t, cfg)
	uid, _, _ = ownerOf(cluster)
	assert.Equal(t, other, uid)
}

func TestOrdinaryUserRunsItsOwnServer(t *testing.T) { // D5
	t.Parallel()
	dir, attr, want := folder(t), &syscall.SysProcAttr{}, os.Geteuid()
	if want == 0 {
		nobody, err := user.Lookup("nobody")
		require.NoError(t, err)
		want, err = strconv.Atoi(nobody.Uid)
		require.NoError(t, err)
		attr.Credential = &syscall.Credential{Uid: uint32(want), Gid: uint32(want)}
		require.NoError(t, os.Chown(dir, want, want))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	binary := filepath.Join(folder(t), "play") // the build's own folder is closed to others
	require.NoError(t, copyFile(self, binary))
	require.NoError(t, os.Chmod(binary, 0o755))
	_, line := play(t, "once", binary, dir, attr)
	assert.Equal(t, strconv.Itoa(want), line)
}
