//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ready is what a running city says of itself.
type ready struct {
	Web    string `json:"web"`
	Ledger string `json:"ledger"`

	program string // the built program
}

// startCity builds the program, founds Berkeley in a temporary folder and runs the lifecycle on it once.
func startCity(t *testing.T) ready {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "citysync-e2e-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755), "the database's own account must reach its folder")
	bin := filepath.Join(dir, "citysync")
	run(t, root, "go", "build", "-o", bin, "./cmd/citysync")

	readyFile := filepath.Join(dir, "ready.json")
	dev := exec.Command(bin, "dev", "--data", filepath.Join(dir, "data"), "--fresh", "--port-base", fmt.Sprint(freePorts(t)), "--ready-file", readyFile)
	var log bytes.Buffer
	dev.Stdout, dev.Stderr = &log, &log
	require.NoError(t, dev.Start())
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	t.Cleanup(func() {
		_ = dev.Process.Signal(syscall.SIGTERM)
		require.NoError(t, <-ended, "the city stops cleanly:\n%s", &log)
	})

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, err := os.ReadFile(readyFile)
		if err == nil {
			var r ready
			require.NoError(t, json.Unmarshal(raw, &r))
			r.program = bin
			run(t, dir, bin, "demo", "--ready-file", readyFile, "--residents", "12")
			return r
		}
		select {
		case err := <-ended:
			ended <- err
			require.FailNow(t, "the city ended before it was ready", log.String())
		case <-ctx.Done():
			require.FailNow(t, "the city was not ready in time", log.String())
		case <-tick.C:
		}
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v:\n%s", name, args, out)
}

// freePorts finds a base with nine free ports in a row.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 21000; base < 60000; base += 10 {
		free := true
		for p := base; p < base+9 && free; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	require.FailNow(t, "no nine free ports in a row")
	return 0
}

// capacity asks the ledger for the figures that the page must show.
func capacity(t *testing.T, ledger string) map[string]int64 {
	t.Helper()
	raw := fetch(t, ledger+"/xrpc/org.city-sync.ledger.getCapacity")
	var all map[string]any
	require.NoError(t, json.Unmarshal(raw, &all))
	figures := map[string]int64{}
	for _, name := range []string{"capacityMonth", "capEpoch", "reserved", "minted", "votes", "burned", "expired", "supply"} {
		n, ok := all[name].(float64)
		require.True(t, ok, "%s in %s", name, raw)
		figures[name] = int64(n)
	}
	return figures
}

// fetch reads a file of the city.
func fetch(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", url, raw)
	return raw
}
