package dagcbor_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo/dagcbor"
)

// Reserved lengths are refused even where enough bytes follow to be read as one.
func TestReservedLengthsAreRefused(t *testing.T) {
	t.Parallel()
	for info := byte(28); info < 32; info++ {
		for major := range byte(8) {
			b := append([]byte{major<<5 | info, 0, 0, 0, 1, 0, 0, 0, 0}, bytes.Repeat([]byte{0}, 1<<17)...)
			r := dagcbor.NewReader(b)
			require.ErrorIs(t, r.Skip(), dagcbor.ErrSyntax, "%x", b[0])
			r = dagcbor.NewReader(b)
			_, err := r.Int()
			require.ErrorIs(t, err, dagcbor.ErrSyntax, "%x", b[0])
		}
	}
}
