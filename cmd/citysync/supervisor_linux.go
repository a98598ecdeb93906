package main

import "syscall"

// dieWithParent asks the kernel to kill the child when the thread that starts it ends. It
// is killed, not asked: every service is written for that, and the next start needs its port.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
