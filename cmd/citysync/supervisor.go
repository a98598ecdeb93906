package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
	steadyLife   = 5 * time.Second // a child that lived so long did not die of its start
	maxDeaths    = 12              // in a row, each after a shorter life: a minute and more
	maxStillborn = 2               // of a child that has never answered: its settings are wrong
	childStop    = 15 * time.Second
)

// supervisor keeps one child running until its context ends, and then stops it. A child
// that dies is started again, after a pause that grows with every death in a row; one
// that keeps dying is given up, which stops the city.
type supervisor struct {
	name   string
	url    string // where the child answers when it is ready
	child  child
	before func(context.Context) error // what every start needs
	http   *http.Client
	log    *slog.Logger
}

func (s *supervisor) run(ctx context.Context, ready func()) error {
	answered := false
	for deaths := 0; ; {
		began := time.Now()
		err := s.once(ctx, func() {
			if !answered {
				answered = true
				ready()
			}
		})
		if ctx.Err() != nil {
			return err
		}
		if time.Since(began) >= steadyLife {
			deaths = 0
		}
		deaths++
		if deaths >= maxDeaths || !answered && deaths >= maxStillborn {
			return fmt.Errorf("%s died %d times in a row: %w", s.name, deaths, err)
		}
		wait := min(firstBackoff<<(deaths-1), lastBackoff)
		s.log.Warn("a service died and is started again", "service", s.name, "error", err, "after", wait.String())
		if pause(ctx, wait) != nil {
			return nil
		}
	}
}

// once runs the child to its end, which is never nil unless it was asked to stop.
func (s *supervisor) once(ctx context.Context, answered func()) error {
	if err := s.before(ctx); err != nil {
		return err
	}
	p, err := s.child.start()
	if err != nil {
		return err
	}
	s.log.Info("service started", "service", s.name, "pid", p.pid)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	waiting := tick.C
	for {
		select {
		case <-p.done:
			if p.err == nil {
				return errors.New("it ended without being asked to")
			}
			return p.err
		case <-ctx.Done():
			return p.stop()
		case <-waiting:
			if s.answers(ctx) {
				waiting = nil
				answered()
			}
		}
	}
}

// answers tells whether the child speaks HTTP yet, whatever it says.
func (s *supervisor) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url+"/", nil)
	if err != nil {
		return false
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // a HEAD has none
	return true
}

// child is a program to run as a child of this process.
type child struct {
	path string
	args []string
	env  []string
	out  io.Writer
}

// process is a running child.
type process struct {
	pid  int
	done chan struct{} // closed after err is set
	err  error
}

// start runs the child in a process group of its own, so that Ctrl-C reaches this process
// alone, which then stops everything in order. On Linux the child is killed when this
// process dies; the death signal belongs to the thread that started it, which therefore
// stays locked until the child ends.
func (c *child) start() (*process, error) {
	cmd := exec.CommandContext(context.Background(), c.path, c.args...) // lives until stop
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, c.out, c.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	return p, nil
}

// stop asks the child to end, and insists when that takes too long.
func (p *process) stop() error {
	for _, step := range []struct {
		signal syscall.Signal
		limit  time.Duration
	}{{syscall.SIGTERM, childStop}, {syscall.SIGKILL, time.Second}} {
		if err := syscall.Kill(p.pid, step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", p.pid, err)
		}
		timer := time.NewTimer(step.limit)
		select {
		case <-p.done:
			timer.Stop()
			return p.err
		case <-timer.C:
		}
	}
	return fmt.Errorf("process %d survived SIGKILL", p.pid)
}
