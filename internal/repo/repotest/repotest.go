// Package repotest makes repositories for tests: authors with keys, commits as
// events, whole repositories as CAR files, and the paths of the interop vectors.
package repotest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"
)

// Start is when every author begins to write.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var indigoDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/bluesky-social/indigo").Output()
	return strings.TrimSpace(string(out)), err
})

// Vector reads a file of the indigo module, by its path below atproto/.
func Vector(t testing.TB, name string) []byte {
	t.Helper()
	dir, err := indigoDir()
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "atproto", filepath.FromSlash(name)))
	require.NoError(t, err)
	return b
}

// Note is a record: a canonical map with a type and a text.
func Note(text string) []byte {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "text"), text)
	return dagcbor.AppendText(dagcbor.AppendText(b, "$type"), "org.example.note")
}

// Author is an account that writes.
type Author struct {
	DID    syntax.DID
	Key    atcrypto.PrivateKeyExportable
	Head   *repo.Head
	Blocks repo.MapBlocks // all blocks ever written

	t    testing.TB
	revs int64
}

// NewAuthor makes an account with a fresh P-256 key.
func NewAuthor(t testing.TB, name string) *Author {
	t.Helper()
	key, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	return &Author{DID: DID(name), Key: key, Blocks: repo.MapBlocks{}, t: t}
}

// FixedAuthor is an account whose key follows from its name, for fuzz targets:
// their processes must agree on it.
func FixedAuthor(t testing.TB, name string) *Author {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	key, err := atcrypto.ParsePrivateBytesP256(seed[:])
	require.NoError(t, err)
	return &Author{DID: DID(name), Key: key, Blocks: repo.MapBlocks{}, t: t}
}

// DID is a did:plc for a name of up to 24 lower-case letters.
func DID(name string) syntax.DID {
	return syntax.DID("did:plc:" + name + strings.Repeat("a", 24-len(name)))
}

// Public is the author's public key.
func (a *Author) Public() atcrypto.PublicKey {
	k, err := a.Key.PublicKey()
	require.NoError(a.t, err)
	return k
}

// Rev is the next rev, one second after the last.
func (a *Author) Rev() string {
	a.revs++
	return string(syntax.NewTIDFromTime(Start.Add(time.Duration(a.revs)*time.Second), 0))
}

// State is what a reader holds who has read everything.
func (a *Author) State() repo.State {
	if a.Head == nil {
		return repo.State{}
	}
	return repo.State{Rev: a.Head.Rev, Data: a.Head.Data}
}

// Commit writes and moves the head.
func (a *Author) Commit(writes ...repo.Write) *repo.Commit {
	a.t.Helper()
	c, err := repo.Apply(context.Background(), a.Blocks, a.DID, a.Head, writes, a.Key, a.Rev())
	require.NoError(a.t, err)
	a.Take(c)
	return c
}

// Take moves the head to a commit made elsewhere.
func (a *Author) Take(c *repo.Commit) {
	for _, b := range c.New {
		a.Blocks.Put(b)
	}
	a.Head = &c.Head
}

// Event writes and gives the commit as an event without a sequence.
func (a *Author) Event(writes ...repo.Write) *firehose.Commit {
	a.t.Helper()
	return Event(a.Commit(writes...))
}

// Event is a commit as the firehose tells it.
func Event(c *repo.Commit) *firehose.Commit {
	ev := &firehose.Commit{
		Seq: 1, DID: c.DID, Commit: c.Head.Commit, Rev: c.Head.Rev, Since: c.Since, PrevData: c.PrevData,
		Blocks: c.CAR, Time: Start.Format(time.RFC3339),
	}
	for _, op := range c.Ops {
		ev.Ops = append(ev.Ops, firehose.Op{Action: string(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev})
	}
	return ev
}

// Repo is the author's whole repository as a CAR file.
func (a *Author) Repo() []byte {
	a.t.Helper()
	want := map[cid.Cid]bool{a.Head.Commit: true}
	require.NoError(a.t, repo.Nodes(context.Background(), a.Blocks, a.Head.Data, func(c cid.Cid) error { want[c] = true; return nil }))
	require.NoError(a.t, repo.Walk(context.Background(), a.Blocks, a.Head.Data, "", func(_ string, c cid.Cid) error { want[c] = true; return nil }))
	return CAR(a.t, a.Head.Commit, func(b repo.Block) bool { return want[b.CID] }, a.Blocks)
}

// Paths is every record of the repository.
func (a *Author) Paths() map[string]cid.Cid {
	out := map[string]cid.Cid{}
	if a.Head != nil {
		require.NoError(a.t, repo.Walk(context.Background(), a.Blocks, a.Head.Data, "", func(p string, c cid.Cid) error { out[p] = c; return nil }))
	}
	return out
}

// CAR writes the blocks that keep wants, root first.
func CAR(t testing.TB, root cid.Cid, keep func(repo.Block) bool, blocks repo.MapBlocks) []byte {
	t.Helper()
	keys := slices.SortedFunc(maps.Keys(blocks), func(a, b cid.Cid) int {
		switch {
		case a == root:
			return -1
		case b == root:
			return 1
		}
		return strings.Compare(a.KeyString(), b.KeyString())
	})
	var buf bytes.Buffer
	require.NoError(t, repo.WriteCAR(&buf, root, func(yield func(repo.Block) bool) {
		for _, k := range keys {
			b := repo.Block{CID: k, Data: blocks[k]}
			if keep(b) && !yield(b) {
				return
			}
		}
	}))
	return buf.Bytes()
}

// Create, Update and Delete are writes of notes in one collection.
func Create(rkey, text string) repo.Write {
	return repo.Write{Action: repo.Create, Collection: "org.example.note", RKey: rkey, Record: Note(text)}
}

// Update is the write that gives a note another text.
func Update(rkey, text string) repo.Write {
	return repo.Write{Action: repo.Update, Collection: "org.example.note", RKey: rkey, Record: Note(text)}
}

// Delete is the write that takes a note away.
func Delete(rkey string) repo.Write {
	return repo.Write{Action: repo.Delete, Collection: "org.example.note", RKey: rkey}
}

// Fill creates n notes, in commits of up to 200.
func (a *Author) Fill(n int) {
	a.t.Helper()
	for i := 0; i < n; {
		var ws []repo.Write
		for ; i < n && len(ws) < repo.MaxOps; i++ {
			ws = append(ws, Create(fmt.Sprintf("n%06d", i), fmt.Sprintf("note %d", i)))
		}
		a.Commit(ws...)
	}
}
