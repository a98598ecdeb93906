//go:build separate

package separate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// city is a city under one command of the built program.
type city struct {
	bin, dir string
	flags    []string
	log      *log
	dev      *exec.Cmd
	ended    chan error
	ready    ready
}

// ready is what a running city says of itself.
type ready struct {
	Web      string   `json:"web"`
	Hosts    []string `json:"hosts"`
	Accounts []struct {
		ID    string   `json:"id"`
		PDS   string   `json:"pds"`
		Roles []string `json:"roles"`
	} `json:"accounts"`
}

// log is what a city says, safe to read while it speaks.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// found builds the program and founds Berkeley with it.
func found(t *testing.T, flags ...string) *city {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "citysync-separate-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755), "the database's own account must reach its folder")
	c := &city{bin: filepath.Join(dir, "citysync"), dir: dir, flags: append(flags, "--port-base", strconv.Itoa(freePorts(t)))}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", c.bin, "./cmd/citysync")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	c.start(t)
	t.Cleanup(func() { _ = c.dev.Process.Kill() })
	return c
}

func (c *city) readyFile() string { return filepath.Join(c.dir, "ready.json") }

// start starts the city and waits until it is open.
func (c *city) start(t *testing.T) {
	t.Helper()
	require.NoError(t, os.RemoveAll(c.readyFile()))
	args := append([]string{"dev", "--data", filepath.Join(c.dir, "data"), "--ready-file", c.readyFile()}, c.flags...)
	c.dev, c.log, c.ended = exec.Command(c.bin, args...), &log{}, make(chan error, 1)
	c.dev.Stdout, c.dev.Stderr = c.log, c.log
	require.NoError(t, c.dev.Start())
	go func(dev *exec.Cmd, ended chan error) { ended <- dev.Wait() }(c.dev, c.ended)
	require.Eventually(t, func() bool {
		select {
		case err := <-c.ended:
			require.FailNow(t, "the city ended before it was open", "%v\n%s", err, c.log)
		default:
		}
		raw, err := os.ReadFile(c.readyFile())
		return err == nil && json.Unmarshal(raw, &c.ready) == nil
	}, 2*time.Minute, 100*time.Millisecond, "the city is not open")
}

// stop asks the city to end as Ctrl-C does.
func (c *city) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, c.dev.Process.Signal(syscall.SIGINT))
	require.NoError(t, <-c.ended, "exit code 0\n%s", c.log)
}

var startedLine = regexp.MustCompile(`msg="service started" service=(\w+) pid=(\d+)`)

// processes are the newest process of each service, as the city's log names it.
func (c *city) processes() map[string]int {
	newest := map[string]int{}
	for _, m := range startedLine.FindAllStringSubmatch(c.log.String(), -1) {
		newest[m[1]], _ = strconv.Atoi(m[2]) // digits
	}
	return newest
}

// figures are what the demonstration prints.
type figures struct {
	CapacityMonth  int64          `json:"capacityMonth"`
	CapEpoch       int64          `json:"capEpoch"`
	CapUnallocated int64          `json:"capUnallocated"`
	Tasks          int64          `json:"tasks"`
	Reserved       int64          `json:"reserved"`
	Claims         int64          `json:"claims"`
	Verifications  int64          `json:"verifications"`
	Minted         int64          `json:"minted"`
	Votes          int64          `json:"votes"`
	Refused        map[string]int `json:"refused"`
	Issuers        []struct {
		ID         string `json:"id"`
		Allocation int64  `json:"allocation"`
	} `json:"issuers"`
	Checkpoint struct {
		Size int64  `json:"size"`
		Root string `json:"root"`
	} `json:"checkpoint"`
}

// demo acts in the city; meanwhile, where it is given, is done while it does.
func (c *city) demo(t *testing.T, meanwhile func(), flags ...string) figures {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.bin, append([]string{"demo", "--json", "--ready-file", c.readyFile()}, flags...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Start())
	if meanwhile != nil {
		meanwhile()
	}
	require.NoError(t, cmd.Wait(), "%s\n%s", &said, c.log)
	var f figures
	require.NoError(t, json.Unmarshal(out.Bytes(), &f))
	return f
}

func (c *city) verify(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.bin, "verify", c.ready.Web).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// socket is where the private database listens.
func (c *city) socket(t *testing.T) string {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(c.dir, "data", "postgres", "socket*"))
	require.NoError(t, err)
	require.Len(t, notes, 1)
	raw, err := os.ReadFile(notes[0])
	require.NoError(t, err)
	return strings.TrimSpace(string(raw))
}

// freePorts finds a base with nine free ports in a row.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 22000; base < 32000; base += 10 {
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
