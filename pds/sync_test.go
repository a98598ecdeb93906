package pds

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	indigorepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/lex/util"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

func TestGetBlocksGivesWhatTheHeadReachesAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	a := u.ok(u.create(note, "a", m{"n": 1})).str("cid")
	old, _ := u.head()
	u.ok(u.put(note, "a", m{"n": 2}, nil))
	head, _ := u.head()
	now := u.ok(u.get("", "com.atproto.repo.getRecord", "repo", u.DID.String(), "collection", note, "rkey", "a")).str("cid")
	ask := func(cids ...string) answer {
		params := []string{"did", u.DID.String()}
		for _, c := range cids {
			params = append(params, "cids", c)
		}
		return b.get("", "com.atproto.sync.getBlocks", params...)
	}
	got := u.ok(ask(head, now, head))
	assert.Equal(t, carType, got.Header.Get("Content-Type"))
	blocks := rootlessCAR(t, got.Raw)
	require.Len(t, blocks, 2)
	for _, want := range []string{head, now} {
		id, err := cid.Decode(want)
		require.NoError(t, err)
		assert.Equal(t, id, repo.CIDForCBOR(blocks[want]))
	}
	for _, gone := range []string{a, old, someCID} {
		assert.Equal(t, "BlockNotFound", ask(head, gone).name())
	}
	assert.Equal(t, "InvalidRequest", ask().name())
	assert.Equal(t, "InvalidRequest", ask("x").name())
	many := make([]string, maxBlocksAsked+1)
	for i := range many {
		many[i] = head
	}
	assert.Equal(t, "InvalidRequest", ask(many...).name())
	assert.Equal(t, "RepoNotFound", b.get("", "com.atproto.sync.getBlocks", "did", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "cids", head).name())

	other := b.account("other")
	theirs := other.ok(other.create(note, "a", m{"n": 3})).str("cid")
	assert.Equal(t, "BlockNotFound", ask(theirs).name(), "another repository's block is not this one's")
}

// rootlessCAR takes a CAR v1 file without a root apart.
func rootlessCAR(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	header := []byte("\xa2eroots\x80gversion\x01")
	require.True(t, bytes.HasPrefix(raw, append([]byte{byte(len(header))}, header...)), "%x", raw[:min(len(raw), 40)])
	out := map[string][]byte{}
	rest := bytes.NewReader(raw[1+len(header):])
	for rest.Len() > 0 {
		n64, err := binary.ReadUvarint(rest)
		require.NoError(t, err)
		b := make([]byte, n64)
		_, err = io.ReadFull(rest, b)
		require.NoError(t, err)
		n, id, err := cid.CidFromBytes(b)
		require.NoError(t, err)
		out[id.String()] = b[n:]
	}
	return out
}

func TestReposAreListedByCollection(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	want := map[string]bool{}
	var gone *user
	for i := range 6 {
		u := b.account(fmt.Sprintf("user%d", i))
		if i%2 == 0 {
			u.ok(u.create(note, "a", m{}))
			want[u.DID.String()] = true
			gone = u
		} else {
			u.ok(u.create("com.example.other", "a", m{}))
		}
	}
	_, err := b.pool.Exec(t.Context(), `update account set status = 'deactivated' where did = $1`, gone.DID)
	require.NoError(t, err)
	delete(want, gone.DID.String())
	got := map[string]bool{}
	cursor := ""
	for {
		a := b.ok(b.get("", "com.atproto.sync.listReposByCollection", "collection", note, "limit", "1", "cursor", cursor))
		for _, r := range a.JSON["repos"].([]any) {
			did := r.(map[string]any)["did"].(string)
			require.False(t, got[did], "%s comes twice", did)
			got[did] = true
		}
		if cursor = a.str("cursor"); cursor == "" {
			break
		}
	}
	assert.Equal(t, want, got)
	assert.Equal(t, "InvalidRequest", b.get("", "com.atproto.sync.listReposByCollection").name())
	assert.Equal(t, "InvalidRequest", b.get("", "com.atproto.sync.listReposByCollection", "collection", "x").name())
}

func TestOwnerExportsAnInactiveRepositoryAndNobodyElse(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	data := []byte("a blob")
	ref := u.ok(u.upload("text/plain", data)).JSON["blob"]
	u.ok(u.create(note, "a", m{"blob": ref}))
	did := u.DID.String()
	blob := ref.(map[string]any)["ref"].(map[string]any)["$link"].(string)
	head, _ := u.head()
	for _, nsid := range []string{"getRepo", "getBlob", "listBlobs"} {
		assert.True(t, whileTakendown["com.atproto.sync."+nsid], "%s: who was put out takes everything along", nsid)
	}
	for status, name := range map[string]string{"deactivated": "RepoDeactivated", "takendown": "RepoTakendown", "suspended": "RepoSuspended"} {
		_, err := b.pool.Exec(t.Context(), `update account set status = $2 where did = $1`, u.DID, status)
		require.NoError(t, err)
		for nsid, params := range map[string][]string{
			"getRepo": nil, "getBlob": {"cid", blob}, "listBlobs": nil, "getLatestCommit": nil,
			"getBlocks": {"cids", head}, "getRecord": {"collection", note, "rkey", "a"},
		} {
			params = append([]string{"did", did}, params...)
			for _, token := range []string{"", other.Access, "nonsense"} {
				assert.Equal(t, name, b.get(token, "com.atproto.sync."+nsid, params...).name(), "%s %s", nsid, status)
			}
			if status != statusTakendown || whileTakendown["com.atproto.sync."+nsid] {
				assert.Equal(t, http.StatusOK, b.get(u.Access, "com.atproto.sync."+nsid, params...).Status, "%s %s", nsid, status)
			}
		}
	}
}

// The reference's Go library inverts every commit by itself: a second opinion beside our own verifier's.
func TestEveryCommitInvertsDeletesAmongNeighboursToo(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	for i := range 3 {
		var writes []m
		for j := range 60 {
			writes = append(writes, m{"$type": applyWritesNSID + "#create", "collection": note, "rkey": fmt.Sprintf("%03d", 60*i+j), "value": m{"n": j}})
		}
		u.ok(u.apply(writes...))
	}
	deleted, rng := map[int]bool{}, rand.New(rand.NewPCG(1, 2))
	for range 40 { // single deletes, and several at once that stand side by side
		var writes []m
		at := rng.IntN(180)
		for k := at; k < min(180, at+1+rng.IntN(4)); k++ {
			if !deleted[k] {
				deleted[k] = true
				writes = append(writes, m{"$type": applyWritesNSID + "#delete", "collection": note, "rkey": fmt.Sprintf("%03d", k)})
			}
		}
		if len(writes) > 0 {
			u.ok(u.apply(writes...))
		}
	}
	f := b.follow(4)
	c := newChain(b, u)
	newest := int64(b.count(`select seq from event_head`))
	for c.last < newest {
		ev := f.next().(*firehose.Commit)
		if ev.PrevData != nil && ev.Since != "" {
			c.takeAfterGenesis(ev)
		}
		_, err := indigorepo.VerifyCommitMessage(context.Background(), asIndigo(ev))
		require.NoError(t, err, "event %d", ev.Seq)
	}
}

// takeAfterGenesis starts the chain at the first commit that is seen.
func (c *chain) takeAfterGenesis(ev *firehose.Commit) {
	if _, ok := c.state[ev.DID]; !ok {
		c.state[ev.DID] = repo.State{Rev: ev.Since, Data: *ev.PrevData}
	}
	c.take(ev)
}

func asIndigo(ev *firehose.Commit) *comatproto.SyncSubscribeRepos_Commit {
	out := &comatproto.SyncSubscribeRepos_Commit{
		Seq: ev.Seq, Repo: ev.DID.String(), Commit: util.LexLink(ev.Commit), Rev: ev.Rev, Since: &ev.Since,
		Blocks: ev.Blocks, Time: ev.Time,
	}
	if ev.PrevData != nil {
		out.PrevData = (*util.LexLink)(ev.PrevData)
	}
	for _, op := range ev.Ops {
		o := &comatproto.SyncSubscribeRepos_RepoOp{Action: op.Action, Path: op.Path}
		if op.CID != nil {
			o.Cid = (*util.LexLink)(op.CID)
		}
		if op.Prev != nil {
			o.Prev = (*util.LexLink)(op.Prev)
		}
		out.Ops = append(out.Ops, o)
	}
	return out
}

// Eight repositories are written at once while readers join at cursors of all ages. Whatever its cursor, a reader sees every later
// number once and in order.
func TestReadersThatJoinAtRandomCursorsMissNothingAndSeeNothingTwice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	const repositories, writes, readers = 8, 25, 24
	const last = int64(repositories*4 + repositories*writes)
	var users []*user
	for i := range repositories {
		users = append(users, b.account(fmt.Sprintf("user%d", i)))
	}
	var g errgroup.Group
	for i, u := range users {
		g.Go(func() error {
			for n := range writes {
				if a := u.put(note, fmt.Sprint(n%7), m{"i": i, "n": n}, nil); a.Status != http.StatusOK {
					return fmt.Errorf("write: %d %s", a.Status, a.Raw)
				}
			}
			return nil
		})
	}
	head := b.follow(0)
	rng := rand.New(rand.NewPCG(3, 4))
	for range readers { // one after the other, each while some more is written
		ev := head.next()
		cursor := rng.Int64N(ev.Sequence() + 1)
		f := b.follow(cursor)
		g.Go(func() error {
			for want := cursor + 1; want <= last; want++ {
				select {
				case ev := <-f.events:
					if ev.Sequence() != want {
						return fmt.Errorf("from cursor %d: %d came where %d was due", cursor, ev.Sequence(), want)
					}
				case <-time.After(20 * time.Second):
					return fmt.Errorf("from cursor %d: %d did not come", cursor, want)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	assert.Equal(t, last, int64(b.count(`select seq from event_head`)))
}

func TestAPageOfTheStreamIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	const insert = `insert into event (seq, did, kind, frame, at) select n, 'did:plc:x', 'sync', convert_to(repeat('x', $1), 'UTF8'), now() from generate_series(1, 12) as n`
	_, err := b.pool.Exec(t.Context(), insert, 3<<20)
	require.NoError(t, err)
	page, err := eventStore{b.pool}.Page(t.Context(), 1, 200)
	require.NoError(t, err)
	require.Len(t, page, 2, "what fits")
	assert.Equal(t, []int64{2, 3}, []int64{page[0].Seq, page[1].Seq})
}

// The database writes the number into the frame: it must be the bytes that our own encoder writes.
func TestNumbersStandInFramesAsCBORWritesThem(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for _, head := range []int64{4, 22, 254, 65_534, 1<<32 - 2, 1 << 53} {
		_, err := b.pool.Exec(t.Context(), `update event_head set seq = $1`, head)
		require.NoError(t, err)
		for range 3 { // before the border, on it and after it
			u.ok(u.create(note, "", m{}))
		}
	}
	page, err := eventStore{b.pool}.Page(t.Context(), 0, 200)
	require.NoError(t, err)
	require.Len(t, page, 4+6*3)
	for _, f := range page {
		ev, err := firehose.Decode(f.Bytes)
		require.NoError(t, err)
		assert.Equal(t, f.Seq, ev.Sequence())
		again, err := firehose.Encode(ev)
		require.NoError(t, err)
		assert.Equal(t, again, f.Bytes, "event %d", f.Seq)
	}
}

// What relays and indexers ask of a frame, as the protocol's own Go library reads it.
func TestFramesOfCommitsCarryWhatConsumersDemand(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.create(note, "a", m{"n": 1}))
	u.ok(u.put(note, "a", m{"n": 2}, nil))
	u.ok(u.remove(note, "a", nil))
	page, err := eventStore{b.pool}.Page(t.Context(), 0, 200)
	require.NoError(t, err)
	var commits []*comatproto.SyncSubscribeRepos_Commit
	for _, f := range page {
		header, body, ok := bytes.Cut(f.Bytes, []byte{0x62, 'o', 'p', 0x01}) // the header ends with op: 1
		require.True(t, ok)
		if !bytes.Contains(header, []byte("#commit")) {
			continue
		}
		var c comatproto.SyncSubscribeRepos_Commit
		require.NoError(t, c.UnmarshalCBOR(bytes.NewReader(body)))
		assert.Equal(t, f.Seq, c.Seq)
		assert.Equal(t, u.DID.String(), c.Repo)
		assert.False(t, c.Rebase)
		assert.False(t, c.TooBig)
		assert.Empty(t, c.Blobs)
		assert.Contains(t, string(body), "eblobs\x80", "an empty list, not none")
		commits = append(commits, &c)
	}
	require.Len(t, commits, 4)
	assert.Nil(t, commits[0].PrevData, "the first commit has none before it")
	assert.Nil(t, commits[0].Since)
	for i, c := range commits[1:] {
		require.NotNil(t, c.Since)
		assert.Equal(t, commits[i].Rev, *c.Since)
		require.NotNil(t, c.PrevData)
		require.Len(t, c.Ops, 1)
		assert.Equal(t, []string{"create", "update", "delete"}[i], c.Ops[0].Action)
		assert.Equal(t, i > 0, c.Ops[0].Prev != nil, "prev of what is changed or deleted")
		assert.Equal(t, i < 2, c.Ops[0].Cid != nil)
	}
	assert.Equal(t, commits[1].Ops[0].Cid, commits[2].Ops[0].Prev)
	assert.Equal(t, commits[2].Ops[0].Cid, commits[3].Ops[0].Prev)
}
