//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	leastNode     = 22
	installLimit  = 5 * time.Minute
	scriptLimit   = time.Minute
	installedLock = "installed-lock.json" // the lock file of what lies in node_modules
)

// workspace is the folder from which the scripts run, with their packages beside them.
type workspace struct {
	dir      string
	node     string
	lexicons string
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".."))
	require.NoError(t, err)
	return dir
}

// install copies the scripts to .cache/interop and puts there what package-lock.json names, unless it is there already. The environment
// variable NODE names a Node that is not the one on the PATH.
func install(t *testing.T) workspace {
	t.Helper()
	node := os.Getenv("NODE")
	if node == "" {
		node = "node"
	}
	node, err := exec.LookPath(node)
	require.NoError(t, err, "Node %d or newer is missing; make interop looks for it and says how to get it", leastNode)
	out, err := exec.CommandContext(t.Context(), node, "--version").Output()
	require.NoError(t, err)
	version := strings.TrimSpace(string(out))
	digits, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	major, err := strconv.Atoi(digits)
	require.NoError(t, err, version)
	require.GreaterOrEqual(t, major, leastNode, "%s is Node %s, the official packages need %d or newer; make interop finds one", node, version, leastNode)

	ws := workspace{dir: filepath.Join(root(t), ".cache", "interop"), node: node, lexicons: filepath.Join(root(t), "lexicons")}
	require.NoError(t, os.MkdirAll(ws.dir, 0o755))
	scripts, err := filepath.Glob("*.mjs")
	require.NoError(t, err)
	for _, name := range append(scripts, "package.json", "package-lock.json", ".npmrc") {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(ws.dir, name), b, 0o644))
	}
	ws.fetch(t)
	return ws
}

func (ws workspace) fetch(t *testing.T) {
	t.Helper()
	want, err := os.ReadFile("package-lock.json")
	require.NoError(t, err)
	stamp := filepath.Join(ws.dir, installedLock)
	have, err := os.ReadFile(stamp)
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if err != nil {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	ctx, cancel := context.WithTimeout(t.Context(), installLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci")
	cmd.Dir = ws.dir
	// npm runs on the first node of the PATH: let it be the one the scripts run on.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(ws.node)+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "npm ci:\n%s", out)
	require.NoError(t, os.WriteFile(stamp, want, 0o644))
}

// run runs one script to its end and answers its standard output.
func (ws workspace) run(t *testing.T, stdin []byte, script string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scriptLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, ws.node, append([]string{script}, args...)...)
	cmd.Dir = ws.dir
	cmd.Stdin = bytes.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Run(), "%s:\n%s", script, &said)
	t.Logf("%s: %s", script, bytes.TrimSpace(said.Bytes()))
	return out.Bytes()
}

// stream is firehose.mjs, which listens until it is told what must have come.
type stream struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bytes.Buffer
}

// listen answers once the stream has delivered its first event.
func (ws workspace) listen(t *testing.T, city string) stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*scriptLimit) // its own time and the client's
	t.Cleanup(cancel)
	s := stream{cmd: exec.CommandContext(ctx, ws.node, "firehose.mjs", city), said: new(bytes.Buffer)}
	s.cmd.Dir, s.cmd.Stderr = ws.dir, s.said
	stdin, err := s.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	s.stdin = stdin
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		require.NoError(t, s.cmd.Wait(), "firehose.mjs:\n%s", s.said)
		require.FailNow(t, "firehose.mjs ended before it received anything")
	}
	return s
}

func (s stream) finish(t *testing.T, made []byte) {
	t.Helper()
	_, err := s.stdin.Write(made)
	assert.NoError(t, err, "firehose.mjs still listens")
	_ = s.stdin.Close() // what it wants to say stands in its output
	require.NoError(t, s.cmd.Wait(), "firehose.mjs:\n%s", s.said)
	t.Logf("firehose.mjs: %s", bytes.TrimSpace(s.said.Bytes()))
}
