package repo_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// keysAt gives n record paths of one level, in order.
func keysAt(level, n int) []string {
	var out []string
	for i := 0; len(out) < n; i++ {
		if k := fmt.Sprintf("org.example.note/k%07d", i); repo.KeyLevel(k) == level {
			out = append(out, k)
		}
	}
	return out
}

var (
	note    = repotest.Note("x")
	noteCID = repo.CIDForCBOR(note)
	noteBlk = repo.Block{CID: noteCID, Data: note}
)

// forge signs a first commit over any root, as a hostile author can.
func forge(t testing.TB, a *repotest.Author, root repo.Block, paths []string, blocks ...repo.Block) *firehose.Commit {
	t.Helper()
	rev := a.Rev()
	c := repo.HandCommit(a.DID, rev, root.CID, a.Key)
	ev := &firehose.Commit{Seq: 1, DID: a.DID, Commit: c.CID, Rev: rev, Time: "2026-03-01T12:00:00Z"}
	for _, p := range paths {
		ev.Ops = append(ev.Ops, firehose.Op{Action: "create", Path: p, CID: &noteCID})
	}
	ev.Blocks = carOf(t, c.CID, append([]repo.Block{c, root, noteBlk}, blocks...)...)
	return ev
}

func carOf(t testing.TB, root cid.Cid, blocks ...repo.Block) []byte {
	t.Helper()
	var buf bytes.Buffer
	require.NoError(t, repo.WriteCAR(&buf, root, func(yield func(repo.Block) bool) {
		for _, b := range blocks {
			if !yield(b) {
				return
			}
		}
	}))
	return buf.Bytes()
}

func block(b []byte) repo.Block { return repo.Block{CID: repo.CIDForCBOR(b), Data: b} }

func rawNode(entries func([]byte) []byte, n int) repo.Block {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "e"), n)
	b = entries(b)
	return block(dagcbor.AppendNull(dagcbor.AppendText(b, "l")))
}

func rawEntry(b []byte, suffix string, prefix int64, val cid.Cid) []byte {
	b = dagcbor.AppendMap(b, 4)
	b = dagcbor.AppendBytes(dagcbor.AppendText(b, "k"), []byte(suffix))
	b = dagcbor.AppendInt(dagcbor.AppendText(b, "p"), prefix)
	b = dagcbor.AppendNull(dagcbor.AppendText(b, "t"))
	return dagcbor.AppendCID(dagcbor.AppendText(b, "v"), val)
}

// V2: every malformed tree is refused as such, whether it comes as a commit, a
// whole repository or a proof.
func TestMalformedTreesAreRefused(t *testing.T) {
	t.Parallel()
	l0, l1, l2 := keysAt(0, 6), keysAt(1, 3), keysAt(2, 2)
	none := cid.Undef
	leaf := func(keys ...string) repo.Block {
		var es []repo.Entry
		for _, k := range keys {
			es = append(es, repo.Entry{Key: k, Val: noteCID})
		}
		return repo.HandNode(none, es...)
	}
	below := func(top string, keys []string) (before, after string) {
		for _, k := range keys {
			if k < top {
				before = k
			} else if after == "" {
				after = k
			}
		}
		return before, after
	}
	before, after := below(l1[1], keysAt(0, 40))
	require.NotEmpty(t, before)
	require.NotEmpty(t, after)
	raw := cid.NewCidV1(cid.Raw, noteCID.Hash())
	sha512, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	require.NoError(t, err)
	leftBlk, rightBlk := leaf(before), leaf(after)
	good := repo.HandNode(leftBlk.CID, repo.Entry{Key: l1[1], Val: noteCID, Right: rightBlk.CID})
	pointer := repo.HandNode(leftBlk.CID)
	empty := repo.HandNode(none)
	extra := append(append([]byte{0xa3}, empty.Data[1:]...), 0x61, 'z', 0xf6)
	for name, c := range map[string]struct {
		what   string // a word of the detail, so that each case meets its own guard
		root   repo.Block
		blocks []repo.Block
		paths  []string
	}{
		"prefix longer than the key before": {"prefix length", rawNode(func(b []byte) []byte { return rawEntry(b, l0[0], 9, noteCID) }, 1), nil, l0[:1]},
		"prefix negative":                   {"prefix length", rawNode(func(b []byte) []byte { return rawEntry(b, l0[0], -1, noteCID) }, 1), nil, l0[:1]},
		"prefix not compressed": {"prefix not compressed", rawNode(func(b []byte) []byte {
			return rawEntry(rawEntry(b, l0[0], 0, noteCID), l0[1], 0, noteCID)
		}, 2), nil, l0[:2]},
		"keys unsorted":            {"unsorted", leaf(l0[1], l0[0]), nil, l0[:2]},
		"key doubled":              {"unsorted", leaf(l0[0], l0[0]), nil, l0[:1]},
		"levels mixed":             {"different levels", leaf(l0[0], l1[2]), nil, []string{l0[0], l1[2]}},
		"key not a path":           {"record path", leaf("org.example.note/" + strings.Repeat("k", 600)), nil, nil},
		"empty key":                {"empty key", leaf(""), nil, nil},
		"child too low":            {"level", repo.HandNode(leaf(l0[0]).CID, repo.Entry{Key: l2[1], Val: noteCID}), []repo.Block{leaf(l0[0])}, []string{l0[0], l2[1]}},
		"child below level 0":      {"below level 0", repo.HandNode(leaf(l0[0]).CID, repo.Entry{Key: l0[1], Val: noteCID}), []repo.Block{leaf(l0[0])}, l0[:2]},
		"one child twice":          {"twice", repo.HandNode(leftBlk.CID, repo.Entry{Key: l1[1], Val: noteCID, Right: leftBlk.CID}), []repo.Block{leftBlk}, []string{before, l1[1]}},
		"child out of range right": {"range", repo.HandNode(none, repo.Entry{Key: l1[1], Val: noteCID, Right: leftBlk.CID}), []repo.Block{leftBlk}, []string{before, l1[1]}},
		"child out of range left":  {"range", repo.HandNode(rightBlk.CID, repo.Entry{Key: l1[1], Val: noteCID}), []repo.Block{rightBlk}, []string{after, l1[1]}},
		"root only a pointer":      {"only a pointer", pointer, []repo.Block{leftBlk}, []string{before}},
		"empty node inside":        {"empty node", repo.HandNode(empty.CID, repo.Entry{Key: l1[1], Val: noteCID}), []repo.Block{empty}, l1[1:2]},
		"record link raw":          {"record link", repo.HandNode(none, repo.Entry{Key: l0[0], Val: raw}), nil, l0[:1]},
		"record link sha-512":      {"record link", repo.HandNode(none, repo.Entry{Key: l0[0], Val: cid.NewCidV1(cid.DagCBOR, sha512)}), nil, l0[:1]},
		"node link raw":            {"node link", repo.HandNode(cid.NewCidV1(cid.Raw, leftBlk.CID.Hash()), repo.Entry{Key: l1[1], Val: noteCID}), nil, l1[1:2]},
		"unknown field":            {"two fields", block(extra), nil, nil},
		"bytes after the node":     {"trailing", block(append(bytes.Clone(good.Data), 0)), []repo.Block{leftBlk, rightBlk}, []string{before, l1[1], after}},
		"node a record":            {"two fields", block(append([]byte{0xa0}, 0)), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := repotest.NewAuthor(t, "a")
			ev := forge(t, a, c.root, c.paths, c.blocks...)
			_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), repo.State{}, later)
			requireReason(t, repo.BadStructure, err)
			require.ErrorContains(t, err, c.what)
			_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(ev.Blocks), a.DID, a.Public(), repo.Limits{})
			requireReason(t, repo.BadStructure, err)
			require.ErrorContains(t, err, c.what)
			_, err = streamed(ev.Blocks, a.DID, a.Public(), repo.Limits{})
			requireReason(t, repo.BadStructure, err)
			_, err = repo.VerifyProof(ev.Blocks, a.DID, a.Public(), l0[0])
			requireReason(t, repo.BadStructure, err)
		})
	}
	a := repotest.NewAuthor(t, "a")
	_, err = repo.VerifyCommit(t.Context(), forge(t, a, good, []string{before, l1[1], after}, leftBlk, rightBlk), a.Public(), repo.State{}, later)
	require.NoError(t, err, "the hand-made tree without a fault passes")
}

// A node that names one child twice, level upon level, would be walked 2^60 times.
func TestDoubledChildrenDoNotExplode(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	at := repo.HandNode(cid.Undef, repo.Entry{Key: keysAt(0, 1)[0], Val: noteCID})
	blocks := []repo.Block{at}
	for range 60 {
		at = repo.HandNode(at.CID, repo.Entry{Key: keysAt(1, 1)[0], Val: noteCID, Right: at.CID})
		blocks = append(blocks, at)
	}
	ev := forge(t, a, at, nil, blocks...)
	_, err := repo.VerifyRepo(t.Context(), bytes.NewReader(ev.Blocks), a.DID, a.Public(), repo.Limits{})
	requireReason(t, repo.BadStructure, err)
}

func TestAWholeRepositoryMustBeComplete(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Fill(400)
	full := a.Repo()
	f, err := repo.VerifyRepo(t.Context(), bytes.NewReader(full), a.DID, a.Public(), repo.Limits{})
	require.NoError(t, err)
	require.Equal(t, 400, f.Len())
	require.Equal(t, *a.Head, repo.Head{Commit: f.Commit, Data: f.Data, Rev: f.Rev})
	n := 0
	for r := range f.Records() {
		require.Equal(t, r.CID, repo.CIDForCBOR(r.Data))
		n++
	}
	require.Equal(t, 400, n)

	file, err := repo.ReadCAR(bytes.NewReader(full), repo.Limits{})
	require.NoError(t, err)
	for c := range file.Blocks {
		car := repotest.CAR(t, file.Root, func(b repo.Block) bool { return b.CID != c }, file.Blocks)
		_, err := repo.VerifyRepo(t.Context(), bytes.NewReader(car), a.DID, a.Public(), repo.Limits{})
		requireReason(t, repo.BadStructure, err)
	}
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(full), a.DID, a.Public(), repo.Limits{MaxBlocks: len(file.Blocks) - 1})
	requireReason(t, repo.TooBig, err)
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(full), a.DID, a.Public(), repo.Limits{MaxBytes: int64(len(full)) - 1})
	requireReason(t, repo.TooBig, err)
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(full), a.DID, a.Public(), repo.Limits{MaxBytes: int64(len(full)), MaxBlocks: len(file.Blocks)})
	require.NoError(t, err)
}

func section(cidAndData ...[]byte) []byte {
	b := bytes.Join(cidAndData, nil)
	return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
}

func carHeader(version int64, roots ...cid.Cid) []byte {
	h := dagcbor.AppendMap(nil, 2)
	h = dagcbor.AppendArray(dagcbor.AppendText(h, "roots"), len(roots))
	for _, r := range roots {
		h = dagcbor.AppendCID(h, r)
	}
	return section(dagcbor.AppendInt(dagcbor.AppendText(h, "version"), version))
}

func TestMalformedCARsAreRefused(t *testing.T) {
	t.Parallel()
	head := carHeader(1, noteCID)
	good := section(noteCID.Bytes(), note)
	sha512, err := multihash.Sum(note, multihash.SHA2_512, -1)
	require.NoError(t, err)
	short, err := multihash.Sum(note, multihash.SHA2_256, 20)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		want error
		car  []byte
	}{
		"empty":                      {repo.ErrCAR, nil},
		"header cut":                 {repo.ErrCAR, head[:10]},
		"block cut":                  {repo.ErrCAR, append(bytes.Clone(head), good[:len(good)-1]...)},
		"length alone":               {repo.ErrCAR, append(bytes.Clone(head), good[0])},
		"header's length alone":      {repo.ErrCAR, head[:1]},
		"length cut":                 {repo.ErrCAR, append(bytes.Clone(head), 0x80)},
		"two roots":                  {repo.ErrCAR, carHeader(1, noteCID, noteCID)},
		"no root":                    {repo.ErrCAR, carHeader(1)},
		"version 2":                  {repo.ErrCAR, carHeader(2, noteCID)},
		"root raw":                   {repo.ErrCAR, carHeader(1, cid.NewCidV1(cid.Raw, noteCID.Hash()))},
		"header of a megabyte":       {repo.ErrTooBig, section(make([]byte, 1<<20))},
		"block of a gigabyte":        {repo.ErrTooBig, append(bytes.Clone(head), binary.AppendUvarint(nil, 1<<30)...)},
		"length of ten bytes":        {repo.ErrCAR, append(bytes.Clone(head), append(bytes.Repeat([]byte{0xff}, 10), 1)...)},
		"length not shortest":        {repo.ErrCAR, bytes.Join([][]byte{head, {good[0] | 0x80, 0}, good[1:]}, nil)},
		"section without a CID":      {repo.ErrCAR, append(bytes.Clone(head), section([]byte{1, 0x71})...)},
		"empty section":              {repo.ErrCAR, append(bytes.Clone(head), 0)},
		"hash of another block":      {repo.ErrCAR, append(bytes.Clone(head), section(noteCID.Bytes(), repotest.Note("y"))...)},
		"CID version 0":              {repo.ErrCAR, append(bytes.Clone(head), section(cid.NewCidV0(noteCID.Hash()).Bytes(), note)...)},
		"other codec":                {repo.ErrCAR, append(bytes.Clone(head), section(cid.NewCidV1(cid.DagProtobuf, noteCID.Hash()).Bytes(), note)...)},
		"sha-512":                    {repo.ErrCAR, append(bytes.Clone(head), section(cid.NewCidV1(cid.DagCBOR, sha512).Bytes(), note)...)},
		"sha-256 cut to twenty":      {repo.ErrCAR, append(bytes.Clone(head), section(cid.NewCidV1(cid.DagCBOR, short).Bytes(), note)...)},
		"garbage where a block goes": {repo.ErrCAR, append(bytes.Clone(head), section(make([]byte, 80))...)},
	} {
		_, err := repo.ReadCAR(bytes.NewReader(c.car), repo.Limits{})
		assert.ErrorIs(t, err, c.want, name)
	}
	rawBlock := section(cid.NewCidV1(cid.Raw, noteCID.Hash()).Bytes(), note)
	file, err := repo.ReadCAR(bytes.NewReader(bytes.Join([][]byte{head, good, good, rawBlock}, nil)), repo.Limits{})
	require.NoError(t, err, "a block may come twice, and raw")
	require.Len(t, file.Blocks, 2)
}

func TestMalformedCommitObjectsAreRefused(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Commit()
	sig := make([]byte, 64)
	object := func(n int, did, rev string, sig []byte, data cid.Cid, version int64, rest ...byte) []byte {
		b := dagcbor.AppendMap(nil, n)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "did"), did)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "rev"), rev)
		b = dagcbor.AppendBytes(dagcbor.AppendText(b, "sig"), sig)
		b = dagcbor.AppendCID(dagcbor.AppendText(b, "data"), data)
		b = dagcbor.AppendNull(dagcbor.AppendText(b, "prev"))
		return append(dagcbor.AppendInt(dagcbor.AppendText(b, "version"), version), rest...)
	}
	did, rev, data := string(a.DID), a.Head.Rev, a.Head.Data
	for name, c := range map[string]struct {
		want   repo.Reason
		object []byte
	}{
		"well formed, not signed": {repo.BadSignature, object(6, did, rev, sig, data, 3)},
		"version 2":               {repo.BadStructure, object(6, did, rev, sig, data, 2)},
		"signature cut":           {repo.BadStructure, object(6, did, rev, sig[:63], data, 3)},
		"signature empty":         {repo.BadStructure, object(6, did, rev, nil, data, 3)},
		"rev not a TID":           {repo.BadStructure, object(6, did, "now", sig, data, 3)},
		"author not a DID":        {repo.BadStructure, object(6, "alice", rev, sig, data, 3)},
		"root raw":                {repo.BadStructure, object(6, did, rev, sig, cid.NewCidV1(cid.Raw, data.Hash()), 3)},
		"one field more":          {repo.BadStructure, object(7, did, rev, sig, data, 3, 0x67, 'z', 'z', 'z', 'z', 'z', 'z', 'z', 0)},
		"bytes after it":          {repo.BadStructure, object(6, did, rev, sig, data, 3, 0)},
		"a record":                {repo.BadStructure, note},
	} {
		b := block(c.object)
		car := carOf(t, b.CID, b, repo.Block{CID: data, Data: a.Blocks[data]})
		_, err := repo.VerifyRepo(t.Context(), bytes.NewReader(car), a.DID, a.Public(), repo.Limits{})
		t.Log(name)
		requireReason(t, c.want, err)
	}
}

// oneStep gives an author with some history and the event of the next commit.
func oneStep(t *testing.T) (*repotest.Author, repo.State, *firehose.Commit) {
	t.Helper()
	a := repotest.NewAuthor(t, "a")
	a.Fill(60)
	have := a.State()
	return a, have, a.Event(repotest.Create("new", "1"), repotest.Update("n000003", "2"), repotest.Delete("n000007"))
}

// V3 and the event's own fields: each change of a good event meets its refusal.
func TestAlteredEventsAreRefused(t *testing.T) {
	t.Parallel()
	other := noteCID
	for name, c := range map[string]struct {
		want  repo.Reason
		alter func(ev *firehose.Commit, have *repo.State)
	}{
		"tooBig flag":             {repo.TooBig, func(ev *firehose.Commit, _ *repo.State) { ev.TooBig = true }},
		"rebase flag":             {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Rebase = true }},
		"rev not a TID":           {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Rev = "zzzzzzzzzzzzz" }},
		"rev of the event later":  {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Rev = string(syntax.NewTIDFromTime(later, 0)) }},
		"rev held already":        {repo.StaleRev, func(ev *firehose.Commit, have *repo.State) { have.Rev = ev.Rev }},
		"commit CID another":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Commit = other }},
		"author another":          {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.DID = repotest.DID("b") }},
		"prevData missing":        {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.PrevData = nil }},
		"prevData another":        {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.PrevData = &other }},
		"root held another":       {repo.BadChain, func(_ *firehose.Commit, have *repo.State) { have.Data = other }},
		"both another":            {repo.BadChain, func(ev *firehose.Commit, have *repo.State) { ev.PrevData, have.Data = &other, other }},
		"nothing held":            {repo.BadChain, func(_ *firehose.Commit, have *repo.State) { *have = repo.State{} }},
		"nothing held, none told": {repo.BadChain, func(ev *firehose.Commit, have *repo.State) { *have, ev.PrevData = repo.State{}, nil }},
		"create hidden":           {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = ev.Ops[1:] }},
		"update hidden":           {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = []firehose.Op{ev.Ops[0], ev.Ops[2]} }},
		"delete hidden":           {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = ev.Ops[:2] }},
		"all hidden":              {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = nil }},
		"create of another CID":   {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[0].CID = &other }},
		"update from another CID": {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[1].Prev = &other }},
		"delete of another CID":   {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[2].Prev = &other }},
		"delete of what is there": {repo.BadChain, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[2].Path = "org.example.note/n000008" }},
		"create with prev":        {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[0].Prev = &other }},
		"create without CID":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[0].CID = nil }},
		"update without prev":     {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[1].Prev = nil }},
		"update without CID":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[1].CID = nil }},
		"update to the same":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[1].Prev = ev.Ops[1].CID }},
		"delete without prev":     {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[2].Prev = nil }},
		"delete with CID":         {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[2].CID = ev.Ops[0].CID }},
		"unknown action":          {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[0].Action = "merge" }},
		"path without slash":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops[0].Path = "note" }},
		"one path twice":          {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = append(ev.Ops, ev.Ops[0]) }},
		"CID of another codec": {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) {
			raw := cid.NewCidV1(cid.Raw, noteCID.Hash())
			ev.Ops[2].Prev = &raw
		}},
		"more than 200 ops": {repo.TooBig, func(ev *firehose.Commit, _ *repo.State) { ev.Ops = make([]firehose.Op, repo.MaxOps+1) }},
		"blocks too big":    {repo.TooBig, func(ev *firehose.Commit, _ *repo.State) { ev.Blocks = make([]byte, repo.MaxCommitCAR+1) }},
		"blocks empty":      {repo.BadStructure, func(ev *firehose.Commit, _ *repo.State) { ev.Blocks = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, have, ev := oneStep(t)
			_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
			require.NoError(t, err)
			c.alter(ev, &have)
			_, err = repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
			requireReason(t, c.want, err)
		})
	}
}

func TestEveryBlockOfASliceIsNeeded(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	file, err := repo.ReadCAR(bytes.NewReader(ev.Blocks), repo.Limits{})
	require.NoError(t, err)
	for c := range file.Blocks {
		cut := *ev
		cut.Blocks = repotest.CAR(t, file.Root, func(b repo.Block) bool { return b.CID != c }, file.Blocks)
		_, err := repo.VerifyCommit(t.Context(), &cut, a.Public(), have, later)
		var r *repo.Reject
		if err != nil {
			require.ErrorAs(t, err, &r)
		} else {
			// Only a neighbour that no merge needed may be spared.
			require.NotContains(t, string(file.Blocks[c]), "$type")
		}
	}
}

func TestRevsAreHeldAgainstTheClock(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	at := syntax.TID(ev.Rev).Time()
	_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), have, at.Add(-5*time.Minute))
	require.NoError(t, err)
	_, err = repo.VerifyCommit(t.Context(), ev, a.Public(), have, at.Add(-5*time.Minute-time.Second))
	requireReason(t, repo.FutureRev, err)
}

func TestSignaturesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	_, err := repo.VerifyCommit(t.Context(), ev, repotest.NewAuthor(t, "a").Public(), have, later)
	requireReason(t, repo.BadSignature, err)
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(a.Repo()), a.DID, repotest.NewAuthor(t, "a").Public(), repo.Limits{})
	requireReason(t, repo.BadSignature, err)
	_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(a.Repo()), repotest.DID("b"), a.Public(), repo.Limits{})
	requireReason(t, repo.BadStructure, err)
}

// The same signature in its other form would give one commit two CIDs.
func TestHighSSignaturesAreRefused(t *testing.T) {
	t.Parallel()
	a, have, ev := oneStep(t)
	file, err := repo.ReadCAR(bytes.NewReader(ev.Blocks), repo.Limits{})
	require.NoError(t, err)
	old := file.Blocks[file.Root]
	_, sig, err := repo.Unsigned(old)
	require.NoError(t, err)
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	high := append(bytes.Clone(sig[:32]), s.FillBytes(make([]byte, 32))...)
	forged := block(bytes.Replace(old, sig, high, 1))
	delete(file.Blocks, file.Root)
	file.Blocks.Put(forged)
	ev.Commit = forged.CID
	ev.Blocks = repotest.CAR(t, forged.CID, func(repo.Block) bool { return true }, file.Blocks)
	unsigned, _, err := repo.Unsigned(forged.Data)
	require.NoError(t, err)
	require.NoError(t, a.Public().HashAndVerifyLenient(unsigned, high), "the forged form is the same signature")
	_, err = repo.VerifyCommit(t.Context(), ev, a.Public(), have, later)
	requireReason(t, repo.BadSignature, err)
}

func TestRecordsMustBeCanonical(t *testing.T) {
	t.Parallel()
	nested := []byte{0xa1, 0x61, 'a'}
	nested = append(nested, bytes.Repeat([]byte{0x81}, dagcbor.MaxDepth+1)...)
	for name, c := range map[string]struct {
		want repo.Reason
		rec  []byte
	}{
		"float":             {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0}},
		"keys unsorted":     {repo.BadRecord, []byte{0xa2, 0x61, 'b', 1, 0x61, 'a', 1}},
		"key doubled":       {repo.BadRecord, []byte{0xa2, 0x61, 'a', 1, 0x61, 'a', 1}},
		"long integer":      {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0x18, 1}},
		"indefinite":        {repo.BadRecord, []byte{0xbf, 0xff}},
		"text not UTF-8":    {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0x61, 0xff}},
		"other tag":         {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0xc1, 1}},
		"broken link":       {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0xd8, 0x2a, 0x42, 0, 1}},
		"undefined":         {repo.BadRecord, []byte{0xa1, 0x61, 'a', 0xf7}},
		"bytes after it":    {repo.BadRecord, append(bytes.Clone(note), 0)},
		"not a map":         {repo.BadRecord, []byte{0x80}},
		"nested too deep":   {repo.BadRecord, append(nested, 0x80)},
		"over the megabyte": {repo.TooBig, repotest.Note(strings.Repeat("x", repo.MaxRecord))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, path := repotest.NewAuthor(t, "a"), keysAt(0, 1)[0]
			rec := block(c.rec)
			root := repo.HandNode(cid.Undef, repo.Entry{Key: path, Val: rec.CID})
			ev := forge(t, a, root, []string{path}, rec)
			ev.Ops[0].CID = &rec.CID
			_, err := repo.VerifyCommit(t.Context(), ev, a.Public(), repo.State{}, later)
			requireReason(t, c.want, err)
			_, err = repo.VerifyRepo(t.Context(), bytes.NewReader(ev.Blocks), a.DID, a.Public(), repo.Limits{})
			requireReason(t, c.want, err)
			_, err = repo.VerifyProof(ev.Blocks, a.DID, a.Public(), path)
			requireReason(t, c.want, err)
		})
	}
}

func TestAReadErrorIsNoRefusal(t *testing.T) {
	t.Parallel()
	a := repotest.NewAuthor(t, "a")
	a.Fill(10)
	_, err := repo.VerifyRepo(t.Context(), &brokenReader{a.Repo()[:200]}, a.DID, a.Public(), repo.Limits{})
	require.ErrorIs(t, err, errBrokenLine)
	var r *repo.Reject
	require.NotErrorAs(t, err, &r)
}

var errBrokenLine = fmt.Errorf("line broken")

type brokenReader struct{ rest []byte }

func (b *brokenReader) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, errBrokenLine
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}
