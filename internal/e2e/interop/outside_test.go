//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What Tessera's client and fsck say of the log stands in a module of its own: internal/e2e/outside.
func TestOutsideCheckersAcceptTheLog(t *testing.T) {
	ready := startCity(t, 40) // a log of more than one tile
	check := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "./...")
	check.Dir = filepath.Join(root(t), "internal", "e2e", "outside")
	check.Env = append(os.Environ(), "OUTSIDE_READY_FILE="+ready)
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}
