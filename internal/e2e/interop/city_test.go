//go:build interop

package interop

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const foundingLimit = 2 * time.Minute

// startCity founds a city and runs the credit lifecycle on it, so that there are records of nearly every kind. It answers the city's ready file.
func startCity(t *testing.T, residents int) string {
	t.Helper()
	bin, ready := foundCity(t)
	demo := exec.CommandContext(t.Context(), bin, "demo", "--ready-file", ready, "--residents", strconv.Itoa(residents))
	out, err := demo.CombinedOutput()
	require.NoError(t, err, "citysync demo:\n%s", out)
	return ready
}

// foundCity builds the program and founds a city on free ports in a temporary folder, with further arguments if given.
func foundCity(t *testing.T, more ...string) (bin, ready string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "citysync-interop-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755), "the database's own account must reach its folder")
	bin = filepath.Join(dir, "citysync")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/citysync")
	build.Dir = root(t)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "go build:\n%s", out)

	ready = filepath.Join(dir, "ready.json")
	// Not the test's context: it ends before the clean-up, and would kill what is to stop in order.
	args := []string{"dev", "--data", filepath.Join(dir, "data"), "--port-base", "0", "--ready-file", ready}
	dev := exec.Command(bin, append(args, more...)...)
	var log bytes.Buffer
	dev.Stdout, dev.Stderr = &log, &log
	require.NoError(t, dev.Start())
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	t.Cleanup(func() {
		_ = dev.Process.Signal(syscall.SIGTERM)
		assert.NoError(t, <-ended, "the city stops cleanly:\n%s", &log)
	})

	late := time.After(foundingLimit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := os.Stat(ready)
		if err == nil {
			return bin, ready
		}
		require.True(t, errors.Is(err, fs.ErrNotExist), "%v", err)
		select {
		case err := <-ended:
			ended <- err
			require.FailNow(t, "the city ended before it was ready", log.String())
		case <-late:
			require.FailNow(t, "the city was not ready in time")
		case <-tick.C:
		}
	}
}
