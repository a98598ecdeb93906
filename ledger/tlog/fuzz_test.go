package tlog_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
)

func FuzzDecodeTile(f *testing.F) {
	f.Add(make([]byte, 64), 2)
	f.Add([]byte{1}, -1)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		hashes, err := tlog.DecodeTile(data, width)
		if err != nil {
			return
		}
		require.Len(t, hashes, width)
		var again []byte
		for _, h := range hashes {
			again = append(again, h[:]...)
		}
		require.Equal(t, data, again)
	})
}

func FuzzParseKey(f *testing.F) {
	_, vkey, err := tlog.GenerateKey(zeros{}, "did:plc:l")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(vkey)
	f.Add("w+00000000+AA==")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := tlog.ParseKey(text)
		if err != nil {
			require.ErrorIs(t, err, tlog.ErrCosignature)
			return
		}
		require.Equal(t, text, k.String())
		require.Error(t, k.CheckData([]byte("x"), []byte("y")))
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
