package repo_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/repo/repotest"
	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const leafValue = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"

func decodeCID(t testing.TB, s string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(s)
	require.NoError(t, err)
	return c
}

func TestKeyLevelsOfTheInteropFile(t *testing.T) {
	t.Parallel()
	lines := bufio.NewScanner(bytes.NewReader(repotest.Vector(t, "repo/mst/testdata/example_keys.txt")))
	n := 0
	for lines.Scan() {
		key := lines.Text()
		if len(key) < 3 || key[0] == '#' {
			continue
		}
		n++
		assert.Equal(t, int(key[1]-'0'), repo.KeyLevel(key), key)
	}
	assert.Greater(t, n, 100)
	for key, level := range map[string]int{
		"": 0, "asdf": 0, "blue": 1, "2653ae71": 0, "88bfafc7": 2, "2a92d355": 4, "884976f5": 6,
		"app.bsky.feed.post/454397e440ec": 4, "app.bsky.feed.post/9adeb165882c": 8,
	} {
		assert.Equal(t, level, repo.KeyLevel(key), key)
	}
}

func TestCommonPrefixOfTheInteropVectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		n    int
	}{
		{"", "", 0}, {"abc", "abc", 3}, {"", "abc", 0}, {"abc", "", 0}, {"ab", "abc", 2}, {"abc", "ab", 2},
		{"abcde", "abc", 3}, {"abcde", "abc1", 3}, {"abcde", "abb", 2}, {"abcde", "qbb", 0},
		{"abc", "abc\x00", 3}, {"abc\x00", "abc", 3}, {"jalapeño", "jalapeno", 6}, {"💩abc", "💩ab", 6},
		{"coöperative", "coüperative", 3}, {"abc👩‍👦‍👦de", "abc👩‍👧‍👧de", 13},
	} {
		assert.Equal(t, c.n, repo.CommonPrefix(c.a, c.b), "%q %q", c.a, c.b)
	}
}

func TestRootsOfTheInteropMaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		root string
		keys []string
	}{
		{"bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm", nil},
		{"bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu", []string{"com.example.record/3jqfcqzm3fo2j"}},
		{"bafyreih7wfei65pxzhauoibu3ls7jgmkju4bspy4t2ha2qdjnzqvoy33ai", []string{"com.example.record/3jqfcqzm3fx2j"}},
		{"bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m", []string{
			"com.example.record/3jqfcqzm3fp2j", "com.example.record/3jqfcqzm3fr2j", "com.example.record/3jqfcqzm3fs2j",
			"com.example.record/3jqfcqzm3ft2j", "com.example.record/3jqfcqzm4fc2j",
		}},
	} {
		_, root, err := repo.Build(c.keys, decodeCID(t, leafValue))
		require.NoError(t, err)
		assert.Equal(t, c.root, root.String())
	}
}

type proofFixture struct {
	Comment          string
	LeafValue        string
	Keys, Adds, Dels []string
	RootBeforeCommit string
	RootAfterCommit  string
	BlocksInProof    []string
}

func TestCoveringProofsOfTheInteropFixtures(t *testing.T) {
	t.Parallel()
	var fixtures []proofFixture
	require.NoError(t, json.Unmarshal(repotest.Vector(t, "repo/testdata/commit-proof-fixtures.json"), &fixtures))
	require.NotEmpty(t, fixtures)
	for _, f := range fixtures {
		t.Run(f.Comment, func(t *testing.T) {
			t.Parallel()
			val := decodeCID(t, f.LeafValue)
			src, before, err := repo.Build(f.Keys, val)
			require.NoError(t, err)
			require.Equal(t, f.RootBeforeCommit, before.String())
			after, proof, ops, err := repo.Edit(src, before, f.Adds, f.Dels, val)
			require.NoError(t, err)
			require.Equal(t, f.RootAfterCommit, after.String())
			for _, want := range f.BlocksInProof {
				assert.Contains(t, proof, decodeCID(t, want), "the covering proof lacks a block")
			}
			// What the fixture lists is enough for us to undo the operations.
			slice := repo.MapBlocks{}
			for _, want := range f.BlocksInProof {
				c := decodeCID(t, want)
				slice[c] = proof[c]
			}
			got, err := repo.Invert(t.Context(), slice, after, ops, true)
			require.NoError(t, err)
			assert.Equal(t, f.RootBeforeCommit, got.String())
		})
	}
}

// wireCommit reads a firehose message in the JSON form of the vectors.
func wireCommit(t testing.TB, raw []byte) *firehose.Commit {
	t.Helper()
	var m comatproto.SyncSubscribeRepos_Commit
	require.NoError(t, json.Unmarshal(raw, &m))
	ev := &firehose.Commit{
		Seq: m.Seq, DID: syntax.DID(m.Repo), Commit: cid.Cid(m.Commit), Rev: m.Rev, PrevData: (*cid.Cid)(m.PrevData),
		Blocks: m.Blocks, Time: m.Time, TooBig: m.TooBig, Rebase: m.Rebase,
	}
	for _, op := range m.Ops {
		ev.Ops = append(ev.Ops, firehose.Op{Action: op.Action, Path: op.Path, CID: (*cid.Cid)(op.Cid), Prev: (*cid.Cid)(op.Prev)})
	}
	return ev
}

// The messages come from the live network, without prevData and with keys we do
// not have; what can be checked of them is structure and inversion.
func TestFirehoseMessagesOfTheNetwork(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"4621317030", "4621317332", "4621332152", "4623075231"} {
		ev := wireCommit(t, repotest.Vector(t, "repo/testdata/firehose_commit_"+name+".json"))
		file, err := repo.ReadCAR(bytes.NewReader(ev.Blocks), repo.Limits{})
		require.NoError(t, err, name)
		require.Equal(t, ev.Commit, file.Root, name)
		unsigned, sig, err := repo.Unsigned(file.Blocks[file.Root])
		require.NoError(t, err, name)
		assert.NotEmpty(t, sig)
		assert.NotEmpty(t, unsigned)
		for c, b := range file.Blocks {
			if !strings.Contains(string(b), "$type") && c != file.Root {
				again, err := repo.DecodeNode(b)
				require.NoError(t, err, name)
				assert.Equal(t, b, again, "node bytes are canonical")
			}
		}
	}
}

// This message's slice lacks the node that becomes the root when its operations
// are undone: the CID alone must do.
func TestUndoingMayEndOnARootThatIsNotInTheSlice(t *testing.T) {
	t.Parallel()
	ev := wireCommit(t, repotest.Vector(t, "repo/testdata/firehose_commit_4623075231.json"))
	file, err := repo.ReadCAR(bytes.NewReader(ev.Blocks), repo.Limits{})
	require.NoError(t, err)
	data := repo.DataOf(file.Blocks[file.Root])
	var ops []repo.Op
	for _, op := range ev.Ops {
		ops = append(ops, repo.Op{Action: repo.Action(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev})
	}
	got, err := repo.Invert(t.Context(), file.Blocks, data, ops, true)
	require.NoError(t, err)
	require.NotContains(t, file.Blocks, got)
	_, err = repo.Invert(t.Context(), file.Blocks, data, ops, false)
	require.ErrorIs(t, err, repo.ErrBlockMissing)
}

func TestStaleKeyOnANetworkMessageIsBadSignature(t *testing.T) {
	t.Parallel()
	ev := wireCommit(t, repotest.Vector(t, "repo/testdata/firehose_commit_4623075231.json"))
	now, err := time.Parse(time.RFC3339, ev.Time)
	require.NoError(t, err)
	_, err = repo.VerifyCommit(t.Context(), ev, repotest.NewAuthor(t, "x").Public(), repo.State{}, now)
	requireReason(t, repo.BadSignature, err)
}

func TestRecordFixturesOfTheDataModelAreCanonical(t *testing.T) {
	t.Parallel()
	var fixtures []struct {
		CBOR string `json:"cbor_base64"`
		CID  string
	}
	require.NoError(t, json.Unmarshal(repotest.Vector(t, "atdata/testdata/data-model-fixtures.json"), &fixtures))
	require.NotEmpty(t, fixtures)
	for _, f := range fixtures {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(f.CBOR, "="))
		require.NoError(t, err)
		assert.NoError(t, dagcbor.ValidateMap(b))
		assert.Equal(t, f.CID, repo.CIDForCBOR(b).String())
	}
	assert.NoError(t, dagcbor.ValidateMap(repotest.Vector(t, "atdata/testdata/feedpost_record.cbor")))
}
