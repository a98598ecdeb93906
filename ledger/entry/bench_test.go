package entry_test

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

func BenchmarkMint(b *testing.B) {
	var mint *entry.Entry
	for _, e := range samples(b) {
		if e.Kind == entry.KindMint {
			mint = e
		}
	}
	sealing := *mint
	opening, err := mint.Seal(rand.Reader)
	require.NoError(b, err)
	leaf, err := mint.Encode()
	require.NoError(b, err)
	sealed, err := opening.Encode()
	require.NoError(b, err)
	decoder := entry.NewDecoder()
	for name, run := range map[string]func() error{
		"seal":          func() error { _, err := sealing.Seal(rand.Reader); return err },
		"encode":        func() error { _, err := mint.Encode(); return err },
		"encodeOpening": func() error { _, err := opening.Encode(); return err },
		"decode":        func() error { _, err := entry.Decode(leaf); return err },
		"decodeAgain":   func() error { _, err := decoder.Decode(leaf); return err },
		"decodeOpening": func() error { _, err := entry.DecodeOpening(sealed); return err },
		"unseal":        func() error { return mint.Unseal(opening) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, run())
			}
		})
	}
}
