package entry_test

import (
	"testing"

	"city-sync.org/citysync/ledger/entry"
)

func BenchmarkMintLeaf(b *testing.B) {
	var mint *entry.Entry
	for _, e := range samples(b) {
		if e.Kind == entry.KindMint {
			mint = e
		}
	}
	leaf, err := mint.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			if _, err := mint.Encode(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := entry.Decode(leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
