package repo_test

import (
	"bytes"
	"testing"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"
)

// Whatever comes, the readers answer; what they take, they give back unchanged.
func FuzzCAR(f *testing.F) {
	a := repotest.FixedAuthor(f, "a")
	a.Fill(20)
	ev := a.Event(repotest.Create("new", "1"), repotest.Delete("n000003"))
	f.Add(ev.Blocks)
	f.Add(a.Repo())
	f.Add(ev.Blocks[:len(ev.Blocks)/2])
	f.Add([]byte{0x0a, 0xa1, 0x67})
	key := a.Public()
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := repo.Limits{MaxBytes: 1 << 20, MaxBlocks: 1000}
		if file, err := repo.ReadCAR(bytes.NewReader(b), lim); err == nil {
			for c, data := range file.Blocks {
				if c.Prefix().Codec == cid.DagCBOR {
					require.Equal(t, c, repo.CIDForCBOR(data))
				}
			}
		}
		full, err := repo.VerifyRepo(t.Context(), bytes.NewReader(b), a.DID, key, lim)
		head, serr := streamed(b, a.DID, key, lim)
		require.Equal(t, err == nil, serr == nil, "in memory: %v; streamed: %v", err, serr)
		if err == nil {
			require.Equal(t, repo.Head{Commit: full.Commit, Data: full.Data, Rev: full.Rev}, head)
		}
		_, _ = repo.VerifyProof(b, a.DID, key, "org.example.note/new")
		altered := *ev
		altered.Blocks = b
		if _, err := repo.VerifyCommit(t.Context(), &altered, key, repo.State{}, later); err != nil {
			var r *repo.Reject
			require.ErrorAs(t, err, &r)
		}
	})
}

// A node from anywhere, signed by its author: the walk alone stands between it
// and everything else.
func FuzzNode(f *testing.F) {
	a := repotest.FixedAuthor(f, "a")
	a.Fill(40)
	for _, b := range a.Blocks {
		f.Add(b)
	}
	key := a.Public()
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := repo.DecodeNode(b); err == nil {
			require.Equal(t, b, again)
		}
		root := block(b)
		c := repo.HandCommit(a.DID, "3mfyouvwom222", root.CID, a.Key)
		blocks := repo.MapBlocks{}
		for k, v := range a.Blocks {
			blocks[k] = v
		}
		blocks.Put(c)
		blocks.Put(root)
		car := repotest.CAR(t, c.CID, func(repo.Block) bool { return true }, blocks)
		ev := &firehose.Commit{Seq: 1, DID: a.DID, Commit: c.CID, Rev: "3mfyouvwom222", Blocks: car}
		_, _ = repo.VerifyCommit(t.Context(), ev, key, repo.State{}, later)
		if full, err := repo.VerifyRepo(t.Context(), bytes.NewReader(car), a.DID, key, repo.Limits{}); err == nil {
			keys := map[string]cid.Cid{}
			for r := range full.Records() {
				keys[r.Path] = r.CID
			}
			require.Equal(t, indigoRoot(t, keys), full.Data, "an accepted tree is the tree of its keys")
		}
	})
}
