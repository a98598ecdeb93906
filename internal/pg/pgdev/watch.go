package pgdev

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// watchByPipe signals pid when this process dies, where the kernel does not do it: a small
// shell waits on a pipe that only this process holds open for writing, and the kernel closes
// that however the process ends. When done closes first, the watcher is told to leave.
func watchByPipe(pid int, sig syscall.Signal, done <-chan struct{}) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	const script = `if read word; then exit 0; fi; kill -"$1" "$2"`
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, "watch", strconv.Itoa(int(sig)), strconv.Itoa(pid))
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = r.Close() // the watcher has its own copy
	if err != nil {
		_ = w.Close() // nobody reads it
		return fmt.Errorf("start watcher: %w", err)
	}
	go func() {
		<-done
		_, _ = w.WriteString("leave\n") // a watcher that is gone needs no word
		_ = w.Close()
		_ = cmd.Wait() // its exit code says nothing more
	}()
	return nil
}
