package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	comatproto "github.com/bluesky-social/indigo/api/atproto"
	indigo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/atproto/repo/mst"
	"github.com/bluesky-social/indigo/lex/util"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var later = repotest.Start.Add(24 * time.Hour)

func requireReason(t testing.TB, want repo.Reason, err error) {
	t.Helper()
	var r *repo.Reject
	require.ErrorAs(t, err, &r)
	require.Equal(t, want, r.Reason, "%v", err)
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the other implementation chatters
	os.Exit(m.Run())
}

// toIndigo is an event in the form of the other implementation.
func toIndigo(ev *firehose.Commit) *comatproto.SyncSubscribeRepos_Commit {
	link := func(c *cid.Cid) *util.LexLink { return (*util.LexLink)(c) }
	m := &comatproto.SyncSubscribeRepos_Commit{
		Blocks: ev.Blocks, Commit: util.LexLink(ev.Commit), PrevData: link(ev.PrevData), Repo: string(ev.DID), Rev: ev.Rev, Seq: ev.Seq, Time: ev.Time,
	}
	for _, op := range ev.Ops {
		m.Ops = append(m.Ops, &comatproto.SyncSubscribeRepos_RepoOp{Action: op.Action, Path: op.Path, Cid: link(op.CID), Prev: link(op.Prev)})
	}
	return m
}

func indigoRoot(t require.TestingT, m map[string]cid.Cid) cid.Cid {
	tree := mst.NewEmptyTree()
	for k, v := range m {
		_, err := tree.Insert([]byte(k), v)
		require.NoError(t, err)
	}
	c, err := tree.RootCID()
	require.NoError(t, err)
	return *c
}

// drawWrites draws one commit's writes against what is there, and updates it.
func drawWrites(t *rapid.T, model map[string]cid.Cid, serial *int) []repo.Write {
	var out []repo.Write
	used := map[string]bool{}
	for range rapid.IntRange(0, 12).Draw(t, "ops") {
		*serial++
		text := fmt.Sprintf("text %d", *serial)
		present := slices.Sorted(maps.Keys(model))
		if kind := rapid.IntRange(0, 3).Draw(t, "kind"); kind < 2 || len(present) == 0 {
			rkey := fmt.Sprintf("k%d", rapid.IntRange(0, 80).Draw(t, "rkey"))
			w := repotest.Create(rkey, text)
			if _, there := model[w.Path()]; there || used[w.Path()] {
				continue
			}
			used[w.Path()] = true
			model[w.Path()] = repo.CIDForCBOR(w.Record)
			out = append(out, w)
		} else {
			path := rapid.SampledFrom(present).Draw(t, "path")
			if used[path] {
				continue
			}
			used[path] = true
			rkey := path[len("org.example.note/"):]
			if kind == 2 {
				w := repotest.Update(rkey, text)
				model[path] = repo.CIDForCBOR(w.Record)
				out = append(out, w)
				continue
			}
			delete(model, path)
			out = append(out, repotest.Delete(rkey))
		}
	}
	return out
}

// R1, R2: whatever is written, the root is that of a tree built anew by another
// implementation, and both verifiers accept the commit.
func TestAnySequenceOfWritesMakesCommitsThatVerify(t *testing.T) {
	t.Parallel()
	key := repotest.NewAuthor(t, "a").Key
	rapid.Check(t, func(rt *rapid.T) {
		a := repotest.NewAuthor(t, "a")
		a.Key = key
		model, serial := map[string]cid.Cid{}, 0
		stored := repo.MapBlocks{} // what a host keeps: new blocks in, unreachable ones out
		for range rapid.IntRange(1, 8).Draw(rt, "commits") {
			have, writes := a.State(), drawWrites(rt, model, &serial)
			c, err := repo.Apply(t.Context(), stored, a.DID, a.Head, writes, a.Key, a.Rev())
			require.NoError(rt, err)
			a.Take(c)
			for _, b := range c.New {
				stored.Put(b)
			}
			for _, gone := range c.Unreachable {
				require.Contains(rt, stored, gone)
				delete(stored, gone)
			}
			require.Equal(rt, indigoRoot(rt, model), c.Head.Data)
			requireExactly(rt, stored, c.Head, model)

			ev := repotest.Event(c)
			v, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
			require.NoError(rt, err)
			require.Equal(rt, c.Head, repo.Head{Commit: v.Commit, Data: v.Data, Rev: v.Rev})
			if !emptiesHalfway(c, model) {
				_, err = indigo.VerifyCommitMessage(t.Context(), toIndigo(ev))
				require.NoError(rt, err)
			}
		}
	})
}

// emptiesHalfway says whether undoing the commit may pass through the empty
// tree. The other implementation reuses an emptied tree, whose height is then
// wrong, and finds another root.
func emptiesHalfway(c *repo.Commit, after map[string]cid.Cid) bool {
	created := 0
	for _, op := range c.Ops {
		if op.Action == repo.Create {
			created++
		}
	}
	return created == len(after) && created < len(c.Ops)
}

// requireExactly checks that the tree nodes kept are those of the tree: none is
// missing, none is left over.
func requireExactly(t require.TestingT, stored repo.MapBlocks, h repo.Head, model map[string]cid.Cid) {
	ctx := context.Background()
	need := map[cid.Cid]bool{h.Commit: true}
	require.NoError(t, repo.Nodes(ctx, stored, h.Data, func(c cid.Cid) error { need[c] = true; return nil }))
	got := map[string]cid.Cid{}
	require.NoError(t, repo.Walk(ctx, stored, h.Data, "", func(p string, c cid.Cid) error { got[p] = c; return nil }))
	require.Equal(t, model, got)
	for c, b := range stored {
		if !need[c] {
			require.True(t, bytes.Contains(b, []byte("$type")), "a tree node is stored but not reachable")
		}
	}
}

func TestWalkBeginsWhereItIsTold(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Fill(300)
	var all []string
	require.NoError(t, repo.Walk(t.Context(), a.Blocks, a.Head.Data, "", func(p string, _ cid.Cid) error { all = append(all, p); return nil }))
	require.Len(t, all, 300)
	require.True(t, slices.IsSorted(all))
	for _, i := range []int{0, 1, 57, 150, 299} {
		var got []string
		require.NoError(t, repo.Walk(t.Context(), a.Blocks, a.Head.Data, all[i], func(p string, _ cid.Cid) error { got = append(got, p); return nil }))
		require.Equal(t, all[i:], got)
	}
	stop := errors.New("enough")
	n := 0
	err := repo.Walk(t.Context(), a.Blocks, a.Head.Data, "", func(string, cid.Cid) error {
		if n++; n == 5 {
			return stop
		}
		return nil
	})
	require.ErrorIs(t, err, stop)
	require.Equal(t, 5, n)
}

func TestATreeEmptiedAndFilledAgain(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Commit(repotest.Create("one", "1"), repotest.Create("two", "2"))
	full := a.Head.Data
	a.Commit(repotest.Delete("one"), repotest.Delete("two"))
	require.Equal(t, repo.EmptyRoot(), a.Head.Data)
	have := a.State()
	ev := a.Event(repotest.Create("one", "1"), repotest.Create("two", "2"))
	require.Equal(t, full, a.Head.Data)
	_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
	require.NoError(t, err)
}

func TestApplyRefusesWhatIsNotAWrite(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Commit(repotest.Create("there", "1"))
	big := repotest.Create("big", string(bytes.Repeat([]byte("x"), repo.MaxRecord)))
	var many, heavy []repo.Write
	for i := range repo.MaxOps + 1 {
		many = append(many, repotest.Create(fmt.Sprint(i), "x"))
	}
	for i := range 3 {
		heavy = append(heavy, repotest.Create(fmt.Sprint(i), string(bytes.Repeat([]byte{byte('a' + i)}, 700_000))))
	}
	odd := repotest.Create("odd", "1")
	odd.Record = append(odd.Record, 0)
	for name, c := range map[string]struct {
		want   error
		writes []repo.Write
	}{
		"create of what exists":     {repo.ErrExists, []repo.Write{repotest.Create("there", "2")}},
		"update of nothing":         {repo.ErrNotFound, []repo.Write{repotest.Update("nothing", "2")}},
		"delete of nothing":         {repo.ErrNotFound, []repo.Write{repotest.Delete("nothing")}},
		"update to the same":        {repo.ErrUnchanged, []repo.Write{repotest.Update("there", "1")}},
		"two writes to one record":  {repo.ErrDoublePath, []repo.Write{repotest.Update("there", "2"), repotest.Delete("there")}},
		"too many":                  {repo.ErrTooManyOps, many},
		"record too big":            {repo.ErrTooBig, []repo.Write{big}},
		"blocks too big":            {repo.ErrTooBig, heavy},
		"record not canonical":      {repo.ErrBadWrite, []repo.Write{odd}},
		"key not a record key":      {repo.ErrBadWrite, []repo.Write{repotest.Create("a b", "1")}},
		"collection not an NSID":    {repo.ErrBadWrite, []repo.Write{{Action: repo.Create, Collection: "x", RKey: "a", Record: repotest.Note("1")}}},
		"unknown action":            {repo.ErrBadWrite, []repo.Write{{Action: "merge", Collection: "org.example.note", RKey: "a"}}},
		"delete that has a record":  {repo.ErrBadWrite, []repo.Write{{Action: repo.Delete, Collection: "org.example.note", RKey: "there", Record: repotest.Note("1")}}},
		"record that is not a map":  {repo.ErrBadWrite, []repo.Write{{Action: repo.Create, Collection: "org.example.note", RKey: "a", Record: []byte{0x01}}}},
		"record that is not there":  {repo.ErrBadWrite, []repo.Write{{Action: repo.Create, Collection: "org.example.note", RKey: "a"}}},
		"path with a second slash":  {repo.ErrBadWrite, []repo.Write{repotest.Create("a/b", "1")}},
		"update that has no record": {repo.ErrBadWrite, []repo.Write{{Action: repo.Update, Collection: "org.example.note", RKey: "there"}}},
	} {
		_, err := repo.Apply(t.Context(), a.Blocks, a.DID, a.Head, c.writes, a.Key, a.Rev())
		require.ErrorIs(t, err, c.want, name)
	}
	_, err := repo.Apply(t.Context(), a.Blocks, a.DID, a.Head, nil, a.Key, a.Head.Rev)
	require.ErrorIs(t, err, repo.ErrRev)
	_, err = repo.Apply(t.Context(), a.Blocks, a.DID, a.Head, nil, a.Key, "yesterday")
	require.ErrorIs(t, err, repo.ErrRev)
	_, err = repo.Apply(t.Context(), repo.MapBlocks{}, a.DID, a.Head, []repo.Write{repotest.Create("x", "1")}, a.Key, a.Rev())
	require.ErrorIs(t, err, repo.ErrBlockMissing)
}

// A record's bytes may stand under two paths: taking one away leaves the other.
func TestRecordsAreNeverNamedUnreachable(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Commit(repotest.Create("one", "same"), repotest.Create("two", "same"))
	c := a.Commit(repotest.Delete("one"))
	require.NotContains(t, c.Unreachable, repo.CIDForCBOR(repotest.Note("same")))
}
