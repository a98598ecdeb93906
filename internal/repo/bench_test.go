package repo_test

import (
	"bytes"
	"fmt"
	"testing"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
)

func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := repotest.NewAuthor(b, "a")
			a.Fill(n)
			writes := []repo.Write{repotest.Create("bench", "1")}
			rev := a.Rev()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := repo.Apply(b.Context(), a.Blocks, a.DID, a.Head, writes, a.Key, rev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerifyCommit stands beside the bare signature check: the rest is what
// the guards cost.
func BenchmarkVerifyCommit(b *testing.B) {
	a := repotest.NewAuthor(b, "a")
	a.Fill(20_000)
	have := a.State()
	ev := a.Event(repotest.Create("bench", "1"))
	file, err := repo.ReadCAR(bytes.NewReader(ev.Blocks), repo.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	unsigned, sig, err := repo.Unsigned(file.Blocks[file.Root])
	if err != nil {
		b.Fatal(err)
	}
	key := a.Public()
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := repo.VerifyCommit(b.Context(), ev, key, have, later); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("signature", func(b *testing.B) {
		for b.Loop() {
			if err := key.HashAndVerify(unsigned, sig); err != nil {
				b.Fatal(err)
			}
		}
	})
}
