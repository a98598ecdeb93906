package ledger

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatStandsOnPaperStaysWhileOtherIsWritten(t *testing.T) {
	t.Parallel()
	var p paper
	for range 3 { // the same sheets again
		var got, want [][]byte
		for i, size := range []int{1, 800, 380, 4 << 10, sheetSize - sheetRest, sheetRest, 60 << 10, 0, 900, sheetSize + 1, 7} {
			text := bytes.Repeat([]byte{byte(i + 1)}, size)
			b, err := p.write(func(b []byte) ([]byte, error) { return append(b, text...), nil })
			require.NoError(t, err)
			_, err = p.write(func(b []byte) ([]byte, error) { return append(b, 0xff), errors.New("no leaf") })
			require.Error(t, err)
			got, want = append(got, b), append(want, text)
			_ = append(b, 0xff) // has no room in the sheet
		}
		for i := range want {
			require.True(t, bytes.Equal(want[i], got[i]), i)
		}
		require.Less(t, len(p.sheets), 8)
		p.reuse()
		require.Empty(t, p.sheets)
	}
}
