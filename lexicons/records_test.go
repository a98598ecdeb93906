package lexicons

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lexutil "github.com/bluesky-social/indigo/lex/util"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "city-sync.org/citysync/lexicons/citysync"
)

// example is one file of testdata/valid or testdata/invalid.
type example struct {
	Name   string          `json:"-"`
	Reason string          `json:"reason"` // part of the reason of an invalid one
	RKey   string          `json:"rkey"`
	Record json.RawMessage `json:"record"`
}

func examples(t testing.TB, kind, nsid string) []example {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", kind, nsid, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "no %s example of %s", kind, nsid)
	var out []example
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		ex := example{Name: strings.TrimSuffix(filepath.Base(f), ".json")}
		require.NoError(t, json.Unmarshal(b, &ex), f)
		out = append(out, ex)
	}
	return out
}

func TestValidExamplesAreAccepted(t *testing.T) { // L2
	t.Parallel()
	for _, nsid := range Records() {
		for _, ex := range examples(t, "valid", nsid) {
			cbor, err := EncodeJSONToCBOR(ex.Record)
			require.NoError(t, err, "%s/%s", nsid, ex.Name)
			assert.NoError(t, Validate(nsid, ex.RKey, cbor), "%s/%s", nsid, ex.Name)
		}
	}
}

func TestInvalidExamplesAreRefusedForTheirReason(t *testing.T) { // L2
	t.Parallel()
	for _, nsid := range Records() {
		for _, ex := range examples(t, "invalid", nsid) {
			require.NotEmpty(t, ex.Reason, "%s/%s", nsid, ex.Name)
			cbor, err := EncodeJSONToCBOR(ex.Record)
			require.NoError(t, err, "%s/%s", nsid, ex.Name)
			err = Validate(nsid, ex.RKey, cbor)
			var invalid *InvalidError
			require.ErrorAs(t, err, &invalid, "%s/%s", nsid, ex.Name)
			assert.Equal(t, nsid, invalid.NSID)
			assert.Contains(t, invalid.Reason, ex.Reason, "%s/%s", nsid, ex.Name)
		}
	}
}

func TestEveryExampleFolderBelongsToARecord(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"valid", "invalid"} {
		dirs, err := os.ReadDir(filepath.Join("testdata", kind))
		require.NoError(t, err)
		for _, d := range dirs {
			assert.True(t, Known(d.Name()), "testdata/%s/%s", kind, d.Name())
		}
	}
}

// cborType is what every generated record type is.
type cborType interface {
	MarshalCBOR(io.Writer) error
	UnmarshalCBOR(io.Reader) error
}

func TestGeneratedTypesKeepEveryField(t *testing.T) {
	t.Parallel()
	for _, nsid := range Records() {
		for _, ex := range examples(t, "valid", nsid) {
			cbor, err := EncodeJSONToCBOR(ex.Record)
			require.NoError(t, err)
			v, err := lexutil.NewFromType(nsid)
			require.NoError(t, err, "%s has no generated type", nsid)
			rec, ok := v.(cborType)
			require.True(t, ok)
			require.NoError(t, rec.UnmarshalCBOR(bytes.NewReader(cbor)), "%s/%s", nsid, ex.Name)

			var out bytes.Buffer
			err = rec.MarshalCBOR(&out)
			if strings.Contains(string(ex.Record), `"org.example.`) {
				// An unknown variant cannot be written back: better an error than a loss.
				assert.ErrorContains(t, err, "empty union", "%s/%s", nsid, ex.Name)
				continue
			}
			require.NoError(t, err, "%s/%s", nsid, ex.Name)
			assert.NoError(t, Validate(nsid, ex.RKey, out.Bytes()), "%s/%s", nsid, ex.Name)
			want, err := DecodeCBOR(cbor)
			require.NoError(t, err)
			got, err := DecodeCBOR(out.Bytes())
			require.NoError(t, err)
			assert.Equal(t, want, onlyTypesAdded(want, got), "%s/%s", nsid, ex.Name)
		}
	}
}

// onlyTypesAdded drops from got each $type that want does not have: an object
// that is a union variant elsewhere is always written with its type.
func onlyTypesAdded(want, got any) any {
	switch g := got.(type) {
	case map[string]any:
		w, _ := want.(map[string]any)
		out := map[string]any{}
		for k, v := range g {
			if _, ok := w[k]; ok || k != "$type" {
				out[k] = onlyTypesAdded(w[k], v)
			}
		}
		return out
	case []any:
		w, _ := want.([]any)
		out := make([]any, len(g))
		for i, v := range g {
			if i < len(w) {
				out[i] = onlyTypesAdded(w[i], v)
			}
		}
		return out
	}
	return got
}

func TestUnnamedFieldsAreKept(t *testing.T) { // L2
	t.Parallel()
	cbor, err := EncodeJSONToCBOR([]byte(`{"$type":"org.city-sync.actor.declaration","createdAt":"2027-01-05T17:00:00Z","mood":{"deep":[1,null,true]}}`))
	require.NoError(t, err)
	assert.NoError(t, Validate(ActorDeclaration, "self", cbor))
}

func TestUnknownTypesAreInvalid(t *testing.T) {
	t.Parallel()
	var invalid *InvalidError
	for _, nsid := range []string{"", "org.city-sync.work", "app.bsky.feed.post", LedgerGetCapacity, "com.atproto.repo.strongRef"} {
		assert.False(t, Known(nsid), nsid)
		require.ErrorAs(t, Validate(nsid, "self", []byte{0xa0}), &invalid, nsid)
	}
	assert.True(t, Known(WorkTask))
	assert.Contains(t, Records(), WorkTask)
	assert.Contains(t, Methods(), LedgerOpenEpoch)
}

func TestKeyIsTheDocumentedHash(t *testing.T) {
	t.Parallel()
	const task = "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/org.city-sync.work.task/3mcx5l2w5ss2b"
	// base32(sha256("org.city-sync.work.claim\n" + task + "\ns1"))[:26], computed apart
	assert.Equal(t, examples(t, "valid", WorkClaim)[0].RKey, ClaimKey(task, "s1"))
	assert.Len(t, Key(WorkClaim, task, "s1"), 26)
	assert.NotEqual(t, Key(WorkClaim, "a", "b"), Key(WorkReview, "a", "b"))
	assert.Equal(t, "did:plc:x", AccreditationKey("did:plc:x"))
	assert.Len(t, AccreditationKey("did:web:localhost%3A80"), 26)
	assert.Equal(t, "000000000042", SeqKey(42))
}

func TestReasonsAreShort(t *testing.T) {
	t.Parallel()
	rec := `{"$type":"org.city-sync.work.review","createdAt":"2027-01-05T17:00:00Z","subject":{"$type":"` + strings.Repeat("é", 10_000) + `"}}`
	cbor, err := EncodeJSONToCBOR([]byte(rec))
	require.NoError(t, err)
	err = Validate(WorkReview, "x", cbor)
	require.ErrorContains(t, err, "subject")
	assert.Less(t, len(err.Error()), 400)
}

func TestBodiesAreJudgedByTheirMethod(t *testing.T) {
	t.Parallel()
	require.NoError(t, CheckInput(LedgerOpenEpoch, []byte(`{"epoch":"e2027-01","book":"std","seen":[{"did":"did:plc:ewvi7nxzyoun6zhxrhs64oiz","rev":"3mcx5l2w5ss2b"}]}`)))
	require.ErrorContains(t, CheckInput(LedgerOpenEpoch, []byte(`{"epoch":"e2027-01"}`)), "book: required")
	require.ErrorContains(t, CheckInput(LedgerOpenEpoch, []byte(`{"epoch":"e2027-01","book":"std","seen":[{"did":"x","rev":"y"}]}`)), "seen[0]")
	require.NoError(t, CheckOutput(LedgerActivate, []byte(`{"seq":3,"status":"activated"}`)))
	require.ErrorContains(t, CheckOutput(LedgerActivate, []byte(`{"seq":-3,"status":"activated"}`)), "seq")
	require.NoError(t, CheckOutput(WorkGetTasks, []byte(`{"tasks":[]}`)))
	require.Error(t, CheckInput(WorkGetTasks, []byte(`{}`)), "a query has no input")
	require.Error(t, CheckOutput("org.example.method", []byte(`{}`)))
}

func TestTheSameRecordIsRefusedForTheSameReason(t *testing.T) { // L4
	t.Parallel()
	cbor, err := EncodeJSONToCBOR([]byte(`{"$type":"org.city-sync.actor.declaration","createdAt":1,"roles":2,"cities":3}`))
	require.NoError(t, err)
	for range 50 {
		require.EqualError(t, Validate(ActorDeclaration, "self", cbor), "invalid org.city-sync.actor.declaration: cities: expected an array")
	}
}
