//go:build unix && !linux

package pgdev

import "syscall"

func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

func watchParent(pid int, sig syscall.Signal, done <-chan struct{}) error {
	return watchByPipe(pid, sig, done)
}
