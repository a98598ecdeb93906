package pgtest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary play another test binary that gets killed.
func TestMain(m *testing.M) {
	if os.Getenv("PGTEST_ROLE") == "victim" {
		s, err := shared()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.dir)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	os.Exit(m.Run())
}

var one = fstest.MapFS{"0001_one.sql": {Data: []byte(`create table one (id int primary key); insert into one values (1);`)}}

func TestSchemasShareNothing(t *testing.T) {
	t.Parallel()
	a, b := Schema(t, one), Schema(t, one)
	_, err := a.Exec(t.Context(), `delete from one; select pg_advisory_lock(1)`)
	require.NoError(t, err)
	var rows int
	var locked bool
	require.NoError(t, b.QueryRow(t.Context(), `select count(*) from one`).Scan(&rows))
	require.NoError(t, b.QueryRow(t.Context(), `select pg_try_advisory_lock(1)`).Scan(&locked))
	assert.Equal(t, 1, rows)
	assert.True(t, locked)
}

func TestDatabaseIsDroppedAtTheTestsEnd(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("user", func(t *testing.T) {
		pool := Open(t, DSN(t), "any")
		require.NoError(t, pool.QueryRow(t.Context(), `select current_database()`).Scan(&name))
	})
	var left int
	pool := Open(t, DSN(t), "any")
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from pg_database where datname = $1`, name).Scan(&left))
	assert.Zero(t, left)
}

func TestKilledTestBinaryLeavesNothing(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PGTEST_ROLE=victim")
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	dir := strings.TrimSpace(line)
	require.FileExists(t, filepath.Join(dir, "cluster", "postmaster.pid"))

	require.NoError(t, cmd.Process.Kill())
	assert.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, 20*time.Second, 20*time.Millisecond)
}
