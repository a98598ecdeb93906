package firehose_test

import (
	"bytes"
	"strings"
	"testing"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/repo/repotest"
	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const when = "2026-03-01T12:00:00Z"

func samples() []firehose.Event {
	c := repo.CIDForCBOR(repotest.Note("x"))
	did := repotest.DID("a")
	return []firehose.Event{
		&firehose.Commit{Seq: 7, DID: did, Commit: c, Rev: "3mfyouvwom222", Since: "3mfyouvwom222", PrevData: &c, Blocks: []byte{1, 2}, Time: when, Ops: []firehose.Op{
			{Action: "create", Path: "org.example.note/a", CID: &c},
			{Action: "update", Path: "org.example.note/b", CID: &c, Prev: &c},
			{Action: "delete", Path: "org.example.note/c", Prev: &c},
		}},
		&firehose.Commit{Seq: 1, DID: did, Commit: c, Rev: "3mfyouvwom222", Blocks: []byte{}, Time: when, Ops: []firehose.Op{}, TooBig: true, Rebase: true},
		&firehose.Sync{Seq: 8, DID: did, Rev: "3mfyouvwom222", Blocks: []byte{3}, Time: when},
		&firehose.Identity{Seq: 9, DID: did, Handle: "a.test", Time: when},
		&firehose.Identity{Seq: 10, DID: did, Time: when},
		&firehose.Account{Seq: 11, DID: did, Active: true, Time: when},
		&firehose.Account{Seq: 12, DID: did, Status: "deleted", Time: when},
		&firehose.Info{Name: "OutdatedCursor", Message: "gone"},
		&firehose.Failure{Name: "FutureCursor", Message: "ahead"},
		&firehose.Failure{Name: "ConsumerTooSlow"},
	}
}

func TestFramesReadBackAsWritten(t *testing.T) {
	t.Parallel()
	for _, ev := range samples() {
		frame, err := firehose.Encode(ev)
		require.NoError(t, err)
		got, err := firehose.Decode(frame)
		require.NoError(t, err, "%T", ev)
		assert.Equal(t, ev, got)
	}
	_, err := firehose.Encode(&firehose.Unknown{})
	require.Error(t, err)
}

// The bodies are those of the network's own generated types, byte for byte.
func TestCommitBodyReadsAsTheNetworksType(t *testing.T) {
	t.Parallel()
	frame, err := firehose.Encode(samples()[0])
	require.NoError(t, err)
	body, ok := bytes.CutPrefix(frame, header("#commit", 1))
	require.True(t, ok)
	var m comatproto.SyncSubscribeRepos_Commit
	require.NoError(t, m.UnmarshalCBOR(bytes.NewReader(body)))
	assert.Equal(t, int64(7), m.Seq)
	assert.Len(t, m.Ops, 3)
	assert.Equal(t, "update", m.Ops[1].Action)
	assert.NotNil(t, m.Ops[2].Prev)
	var again bytes.Buffer
	require.NoError(t, m.MarshalCBOR(&again))
	assert.Equal(t, body, again.Bytes())
}

func header(kind string, op int64) []byte {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "t"), kind)
	return dagcbor.AppendInt(dagcbor.AppendText(b, "op"), op)
}

func TestTypesOfTheFutureAreSkipped(t *testing.T) {
	t.Parallel()
	empty := dagcbor.AppendMap(nil, 0)
	for _, frame := range [][]byte{append(header("#label", 1), empty...), append(header("#commit", 2), empty...)} {
		ev, err := firehose.Decode(frame)
		require.NoError(t, err)
		assert.IsType(t, &firehose.Unknown{}, ev)
	}
	// A known type with one field more is still read.
	b := dagcbor.AppendMap(header("#info", 1), 2)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "name"), "x")
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "future"), 0)
	ev, err := firehose.Decode(b)
	require.NoError(t, err)
	assert.Equal(t, &firehose.Info{Name: "x"}, ev)
}

func TestMalformedFramesAreRefused(t *testing.T) {
	t.Parallel()
	identity := func(did string, seq int64, extra int) []byte {
		b := dagcbor.AppendMap(header("#identity", 1), 3)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "did"), did)
		b = dagcbor.AppendInt(dagcbor.AppendText(b, "seq"), seq)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "time"), when)
		return append(b, make([]byte, extra)...)
	}
	ops := func(n int) []byte {
		b := dagcbor.AppendMap(header("#commit", 1), 1)
		b = dagcbor.AppendArray(dagcbor.AppendText(b, "ops"), n)
		for range n {
			b = dagcbor.AppendMap(b, 2)
			b = dagcbor.AppendText(dagcbor.AppendText(b, "path"), "p")
			b = dagcbor.AppendText(dagcbor.AppendText(b, "action"), "a")
		}
		return b
	}
	blobs := dagcbor.AppendMap(header("#commit", 1), 1)
	blobs = dagcbor.AppendArray(dagcbor.AppendText(blobs, "blobs"), 1001)
	for range 1001 {
		blobs = dagcbor.AppendCID(blobs, repo.CIDForCBOR(nil))
	}
	_, err := firehose.Decode(identity(string(repotest.DID("a")), 1, 0))
	require.NoError(t, err, "the frame without a fault is read")
	for name, c := range map[string]struct {
		what  string
		frame []byte
	}{
		"empty":            {"unexpected end", nil},
		"header only":      {"unexpected end", header("#info", 1)},
		"not a map":        {"expected a map", []byte{0x80}},
		"trailing":         {"trailing", identity(string(repotest.DID("a")), 1, 1)},
		"seq zero":         {"seq 0", identity(string(repotest.DID("a")), 0, 0)},
		"seq negative":     {"seq -1", identity(string(repotest.DID("a")), -1, 0)},
		"not a DID":        {"DID", identity("alice", 1, 0)},
		"fields missing":   {"missing", dagcbor.AppendMap(header("#account", 1), 0)},
		"commit of none":   {"missing", dagcbor.AppendMap(header("#commit", 1), 0)},
		"sync of none":     {"missing", dagcbor.AppendMap(header("#sync", 1), 0)},
		"error of none":    {"missing", dagcbor.AppendMap(header("", -1), 0)},
		"too many ops":     {"5001 ops", ops(5001)},
		"too many blobs":   {"1001 blobs", blobs},
		"frame too big":    {"bytes", make([]byte, firehose.MaxFrame+1)},
		"header unsorted":  {"unsorted", append([]byte{0xa2, 0x62, 'o', 'p', 1, 0x61, 't', 0x61, 'x'}, 0xa0)},
		"ops of a billion": {"longer", append(header("#commit", 1), 0xa1, 0x63, 'o', 'p', 's', 0x9a, 0x3b, 0x9a, 0xca, 0)},
	} {
		_, err := firehose.Decode(c.frame)
		require.ErrorIs(t, err, firehose.ErrFrame, name)
		assert.ErrorContains(t, err, c.what, name)
	}
	require.NotPanics(t, func() {
		for _, ev := range samples() {
			frame, err := firehose.Encode(ev)
			require.NoError(t, err)
			for i := range frame {
				_, err := firehose.Decode(frame[:i])
				assert.Error(t, err)
			}
		}
	})
}

func TestCommitOverTheLimitsIsNotEncoded(t *testing.T) {
	t.Parallel()
	_, err := firehose.Encode(&firehose.Commit{Ops: make([]firehose.Op, firehose.MaxOps+1), Commit: cid.Undef})
	require.Error(t, err)
	_, err = firehose.Encode(&firehose.Commit{Blocks: make([]byte, firehose.MaxBlocks+1)})
	require.Error(t, err)
}

func FuzzFrame(f *testing.F) {
	for _, ev := range samples() {
		frame, err := firehose.Encode(ev)
		require.NoError(f, err)
		f.Add(frame)
	}
	f.Add(append(header("#commit", 1), 0xa1, 0x63, 'o', 'p', 's', 0x9a, 0x3b, 0x9a, 0xca, 0))
	f.Add([]byte(strings.Repeat("\x81", 100)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		ev, err := firehose.Decode(frame)
		if err != nil {
			require.Nil(t, ev)
			return
		}
		if _, ok := ev.(*firehose.Unknown); ok {
			return
		}
		again, err := firehose.Encode(ev)
		require.NoError(t, err)
		second, err := firehose.Decode(again)
		require.NoError(t, err)
		if c, ok := ev.(*firehose.Commit); ok && len(c.Ops) == 0 {
			c.Ops = []firehose.Op{} // null and empty are the same to us
		}
		require.Equal(t, ev, second)
	})
}
