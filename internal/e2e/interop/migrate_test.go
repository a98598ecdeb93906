//go:build interop

package interop

import "testing"

// The reference PDS as published lets an account go to us and takes it back with all it has.
func TestAccountMovesFromTheReferenceToUsAndBack(t *testing.T) {
	ws := install(t)
	_, city := foundCity(t)
	ws.run(t, nil, "migrate.mjs", city)
}
