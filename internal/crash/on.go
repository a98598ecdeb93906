//go:build crash

package crash

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// armed is what the file said last, and how often its point was reached since.
var armed struct {
	sync.Mutex
	text string
	hits int
}

// Point kills this process if the file that CRASH_FILE names says so.
func Point(label string) {
	path := os.Getenv("CRASH_FILE")
	if path == "" {
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return
	}
	text := strings.TrimSpace(string(raw))
	name, count, _ := strings.Cut(text, "#")
	n, err := strconv.Atoi(count)
	if !slices.Contains(labels, name) || err != nil || n < 1 {
		die("%q is no label#n", text)
	}
	if name != label {
		return
	}
	armed.Lock() // kept by the one that dies: nobody passes the point after it
	if armed.text != text {
		armed.text, armed.hits = text, 0
	}
	if armed.hits++; armed.hits < n {
		armed.Unlock()
		return
	}
	if err := os.Remove(path); err != nil {
		die("%v", err)
	}
	die("%s", text)
}

// die runs nothing on the way out.
func die(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "crash: "+format+"\n", a...)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
