//go:build crash

package crash

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	restartPause = 100 * time.Millisecond // of the supervisor
	pollEvery    = 20 * time.Millisecond
	patience     = 60 * time.Second // for one thing to happen
)

// process is one command of the program under a supervisor that starts it anew whenever it ends.
type process struct {
	name  string // the command
	dir   string // of its log and of the file that arms a point
	ready string // an address that answers 200 when the command serves

	bin    string
	args   []string
	stop   chan struct{}
	done   chan struct{}
	deaths chan string

	mu  sync.Mutex
	pid int // of the child that runs now, guarded by mu
}

func (p *process) arm() string { return filepath.Join(p.dir, p.name+".crash") }
func (p *process) log() string { return filepath.Join(p.dir, p.name+".log") }

func (p *process) supervise(t *testing.T, bin string, args ...string) {
	t.Helper()
	p.bin, p.args = bin, append([]string{p.name}, args...)
	p.stop, p.done, p.deaths = make(chan struct{}), make(chan struct{}), make(chan string, 1000)
	go p.run()
	t.Cleanup(p.end)
}

func (p *process) run() {
	runtime.LockOSThread() // the children's death signal belongs to the thread that started them
	defer close(p.done)
	out, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.deaths <- err.Error()
		return
	}
	defer out.Close()
	for {
		cmd := exec.Command(p.bin, p.args...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.Env = append(os.Environ(), "CRASH_FILE="+p.arm())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		p.mu.Lock()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		p.mu.Unlock()
		if err == nil {
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err = <-ended:
			case <-p.stop:
				_ = cmd.Process.Signal(syscall.SIGTERM)
				<-ended
				return
			}
		}
		p.deaths <- fmt.Sprint(err)
		select {
		case <-p.stop:
			return
		case <-time.After(restartPause):
		}
	}
}

// end asks the service to stop and waits for it.
func (p *process) end() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	<-p.done
}

// kill is kill -9 at no particular moment.
func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return syscall.Kill(p.pid, syscall.SIGKILL)
}

// forget takes the news of earlier deaths away.
func (p *process) forget() {
	for {
		select {
		case <-p.deaths:
		default:
			return
		}
	}
}

// load arms a point.
func (p *process) load(t *testing.T, point string) {
	t.Helper()
	require.NoError(t, os.WriteFile(p.arm()+".new", []byte(point), 0o600))
	require.NoError(t, os.Rename(p.arm()+".new", p.arm()))
}

// diedAt waits until the process has died at the point that was loaded. It may end for another reason before, such as a database that
// was killed a moment ago; then the next one dies there.
func (p *process) diedAt(ctx context.Context, t *testing.T, point string) {
	t.Helper()
	for {
		how := p.dies(ctx, t, point)
		if _, err := os.Stat(p.arm()); err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
			require.Equal(t, killed, how, "%s at %s; see %s", p.name, point, p.log())
			return
		}
	}
}

const killed = "signal: killed"

// dies waits for a death and tells how it was.
func (p *process) dies(ctx context.Context, t *testing.T, why string) string {
	t.Helper()
	select {
	case how := <-p.deaths:
		return how
	case <-ctx.Done():
		require.FailNow(t, "nothing acts any more", "before %s came to %s: %v", p.name, why, context.Cause(ctx))
	case <-time.After(patience):
		require.FailNow(t, "it lives", "%s did not come to %s", p.name, why)
	}
	return ""
}

// serves waits until the service answers.
func (p *process) serves(ctx context.Context, t *testing.T) {
	t.Helper()
	require.NoError(t, eventually(ctx, func(ctx context.Context) error {
		status, _, err := get(ctx, p.ready)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	}), "%s does not come back; see %s", p.name, p.log())
}

// eventually asks again until there is no error. Where time is up, the error is that of the last question that was answered.
func eventually(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

var (
	plain   = &http.Client{Timeout: 10 * time.Second}
	patient = &http.Client{Timeout: patience}
)

func get(ctx context.Context, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	res, err := plain.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	return res.StatusCode, raw, err
}
