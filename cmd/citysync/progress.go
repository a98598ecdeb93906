package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// progress shows how far a run is: a bar that is redrawn on a terminal, one line a
// step elsewhere. It is safe for concurrent use.
type progress struct {
	w        io.Writer
	terminal bool

	mu          sync.Mutex // guards the fields below
	name        string
	done, total int
}

const barWidth = 30

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *progress) step(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.name, p.done, p.total = name, 0, 0
	p.draw()
}

// of says how many acts the step has.
func (p *progress) of(total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += total
	p.draw()
}

func (p *progress) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.draw()
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.name = ""
}

// finish and draw are called with mu held. What cannot be written to standard error
// is lost: there is nobody left to tell.
func (p *progress) finish() {
	if p.name == "" {
		return
	}
	if p.terminal {
		_, _ = fmt.Fprintln(p.w)
		return
	}
	_, _ = fmt.Fprintf(p.w, "%s: %d\n", p.name, p.done)
}

func (p *progress) draw() {
	if !p.terminal || p.name == "" {
		return
	}
	filled := 0
	if p.total > 0 {
		filled = min(p.done*barWidth/p.total, barWidth)
	}
	_, _ = fmt.Fprintf(p.w, "\r\033[K%-38s [%s%s] %d/%d", p.name, strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), p.done, p.total)
}
