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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	keepLines   = 30
	maxLogLine  = 4 << 10
	lineTrimmed = " …"
)

type childConfig struct {
	path  string
	args  []string
	dir   string
	who   account
	log   *slog.Logger
	death syscall.Signal // sent to the child when this process dies
}

// child is the running server process.
type child struct {
	process *os.Process
	done    chan struct{} // closed after err is set
	err     error         // how the process ended
	silent  chan struct{} // closed when all that it and its children said was read

	mu    sync.Mutex // guards lines
	lines []string   // the last of what it said
}

// startChild starts the process on a thread that stays locked until it ends: on Linux the
// death signal belongs to the thread that started the child, not to the process, and Go
// ends threads at will.
func startChild(cfg childConfig) (*child, error) {
	cmd := exec.CommandContext(context.Background(), cfg.path, cfg.args...) // lives until shutdown
	cmd.Env = environ()
	cmd.Dir = cfg.dir
	cmd.SysProcAttr = cfg.who.attr()
	dieWithParent(cmd.SysProcAttr, cfg.death)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = w
	c := &child{done: make(chan struct{}), silent: make(chan struct{})}

	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	err = <-started
	errClose := w.Close()
	if err != nil {
		return nil, errors.Join(err, errClose, r.Close())
	}
	c.process = cmd.Process
	go c.read(r, cfg.log)
	if err := watchParent(cmd.Process.Pid, cfg.death, c.done); err != nil {
		return nil, errors.Join(err, c.shutdown(true))
	}
	return c, nil
}

// read ends when the last server process has closed its standard error.
func (c *child) read(r *os.File, log *slog.Logger) {
	defer close(c.silent)
	defer r.Close() //nolint:errcheck // a pipe that was read to its end
	br := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, more, err := br.ReadLine()
		if err != nil {
			return
		}
		text := string(line)
		for more && err == nil { // skip the rest of an overlong line
			_, more, err = br.ReadLine()
			if !more {
				text += lineTrimmed
			}
		}
		c.keep(text)
		log.Log(context.Background(), severity(text), "postgres", "line", text)
	}
}

func severity(line string) slog.Level {
	if strings.HasSuffix(line, "the database system is starting up") {
		return slog.LevelDebug // the answer to our own asking whether it is ready
	}
	for _, bad := range []string{"WARNING:", "FATAL:", "PANIC:"} {
		if strings.HasPrefix(line, bad) {
			return slog.LevelWarn
		}
	}
	return slog.LevelDebug
}

func (c *child) keep(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lines) == keepLines {
		c.lines = c.lines[1:]
	}
	c.lines = append(c.lines, line)
}

// lastWords are the lines of a server that has ended. Its children may hold the pipe for a moment longer.
func (c *child) lastWords() string {
	timer := time.NewTimer(killLimit)
	defer timer.Stop()
	select {
	case <-c.silent:
	case <-timer.C:
	}
	return c.lastLines()
}

func (c *child) lastLines() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n")
}

// failure is how the process ended; call it after done.
func (c *child) failure() error {
	if c.err == nil {
		return io.EOF
	}
	return c.err
}

// shutdown asks for a fast (or immediate) end, and insists when that takes too long.
func (c *child) shutdown(immediate bool) error {
	select {
	case <-c.done:
		return fmt.Errorf("postgres had ended before it was stopped: %w\n%s", c.failure(), c.lastLines())
	default:
	}
	steps := []struct {
		sig   syscall.Signal
		limit time.Duration
	}{{syscall.SIGINT, stopLimit}, {syscall.SIGQUIT, killLimit}, {syscall.SIGKILL, killLimit}}
	if immediate {
		steps = steps[1:]
	}
	for i, step := range steps {
		if err := c.process.Signal(step.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal postgres: %w", err)
		}
		timer := time.NewTimer(step.limit)
		select {
		case <-c.done:
			timer.Stop()
			// An immediate end is no clean exit by PostgreSQL's own measure, but was asked for.
			if i == 0 && (c.err == nil || immediate) {
				return nil
			}
			return fmt.Errorf("postgres ended by %s: %w", step.sig, c.failure())
		case <-timer.C:
		}
	}
	return fmt.Errorf("postgres (pid %d) survived SIGKILL", c.process.Pid)
}
