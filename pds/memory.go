package pds

import (
	"os"
	"runtime/debug"
)

const gcPercent = 50

// SpareMemory sets the garbage collector of a process that is a PDS alone: it takes a quarter less memory than by Go's own setting, and writes as
// many records. Whoever sets GOGC knows better.
func SpareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
