//go:build unix && !linux

package main

import "syscall"

// dieWithParent can do nothing here: a child outlives a parent that was killed, and keeps
// its port until somebody ends it.
func dieWithParent(*syscall.SysProcAttr) {}
