package pgdev

import "syscall"

// dieWithParent asks the kernel to signal the child when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// watchParent has nothing to do: the kernel watches.
func watchParent(int, syscall.Signal, <-chan struct{}) error { return nil }
