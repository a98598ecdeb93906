package lexicons

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// vectors reads one of the interop files that come with the indigo module.
func vectors(t *testing.T, name string, into any) {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/bluesky-social/indigo").Output()
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "atproto", "atdata", "testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, into))
}

func TestDataModelFixtures(t *testing.T) { // L1
	t.Parallel()
	var fixtures []struct {
		JSON json.RawMessage `json:"json"`
		CBOR string          `json:"cbor_base64"`
	}
	vectors(t, "data-model-fixtures.json", &fixtures)
	require.NotEmpty(t, fixtures)
	for _, f := range fixtures {
		want, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(f.CBOR, "="))
		require.NoError(t, err)
		got, err := EncodeJSONToCBOR(f.JSON)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		back, err := CBORToJSON(want)
		require.NoError(t, err)
		assert.JSONEq(t, string(f.JSON), string(back))
	}
}

func TestDataModelValidAndInvalidVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		Note string          `json:"note"`
		JSON json.RawMessage `json:"json"`
	}
	var valid, invalid []vector
	vectors(t, "data-model-valid.json", &valid)
	vectors(t, "data-model-invalid.json", &invalid)
	for _, v := range valid {
		_, err := DecodeJSON(v.JSON)
		assert.NoError(t, err, v.Note)
	}
	for _, v := range invalid {
		_, err := DecodeJSON(v.JSON)
		assert.Error(t, err, v.Note)
	}
}

func TestOnlyTheCanonicalFormIsAccepted(t *testing.T) { // L1
	t.Parallel()
	for name, in := range map[string]string{
		"long form of a small number": "a1616118 05",
		"two-byte form of 255":        "a16161 1900ff",
		"four-byte form of 65535":     "a16161 1a0000ffff",
		"eight-byte form of 2^32-1":   "a16161 1b00000000ffffffff",
		"long form of the map length": "b801 616101",
		"indefinite map":              "bf 616101 ff",
		"indefinite array":            "a16161 9f01ff",
		"indefinite text":             "a16161 7f6161ff",
		"fields out of order":         "a2 616201 616101",
		"longer field first":          "a2 62616101 616201",
		"field twice":                 "a2 616101 616102",
		"number as field name":        "a1 0101",
		"bytes as field name":         "a1 416101",
		"half float":                  "a16161 f93c00",
		"double float":                "a16161 fb3ff0000000000000",
		"NaN":                         "a16161 f97e00",
		"undefined":                   "a16161 f7",
		"simple value":                "a16161 f820",
		"false in two bytes":          "a16161 f814",
		"integer beyond 64 bits":      "a16161 1bffffffffffffffff",
		"negative beyond 64 bits":     "a16161 3bffffffffffffffff",
		"text that is not UTF-8":      "a16161 61ff",
		"name that is not UTF-8":      "a161ff 01",
		"surrogate in text":           "a16161 63eda080",
		"foreign tag":                 "a16161 c001",
		"tag 42 on a text":            "a16161 d82a 6161",
		"tag 42 without zero byte":    "a16161 d82a 43 010155",
		"tag in long form":            "a16161 d9002a 4200 01",
		"link to a CIDv0":             "a16161 d82a 5823 00 1220" + strings.Repeat("00", 32),
		"link with bytes after it":    "a16161 d82a 5826 00 01551220" + strings.Repeat("00", 33),
		"$link in CBOR":               "a1 65246c696e6b 6161",
		"$bytes in CBOR":              "a1 66246279746573 6161",
		"$type of another kind":       "a1 652474797065 01",
		"empty $type":                 "a1 652474797065 60",
		"blob without content":        "a1 652474797065 64626c6f62",
		"bytes after the object":      "a0 00",
		"two objects":                 "a0 a0",
		"not an object":               "80",
		"nothing":                     "",
		"cut in the middle":           "a16161",
		"array longer than the input": "a16161 9a00ffffff 01",
		"map longer than the input":   "ba00ffffff 6161",
		"bytes longer than the input": "a16161 5b7fffffffffffffff",
		"array of 2^63 elements":      "a16161 9b8000000000000000",
		"nested far too deep":         "a16161" + strings.Repeat("81", 100_000) + "01",
		"maps nested far too deep":    strings.Repeat("a16161", 50_000) + "01",
		"reserved additional info":    "a16161 1c",
		"break outside":               "a16161 ff",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		require.NoError(t, err, name)
		_, err = DecodeCBOR(b)
		assert.Error(t, err, name)
		var invalid *InvalidError
		assert.ErrorAs(t, Validate(WorkClaim, "x", b), &invalid, name)
	}
}

func TestNestingIsAllowedUpToTheLimit(t *testing.T) { // L3
	t.Parallel()
	nested := func(n int) []byte {
		return append(append([]byte{0xa1, 0x61, 'a'}, bytes.Repeat([]byte{0x81}, n)...), 1)
	}
	_, err := DecodeCBOR(nested(MaxDepth - 1))
	require.NoError(t, err)
	_, err = DecodeCBOR(nested(MaxDepth))
	require.ErrorContains(t, err, "nested deeper")
}

func TestJSONThatNobodyCouldReadBackIsRefused(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"field twice":           `{"a":1,"a":2}`,
		"fraction":              `{"a":1.5}`,
		"beyond safe integers":  `{"a":9007199254740992}`,
		"far beyond":            `{"a":1e300}`,
		"two objects":           `{} {}`,
		"array":                 `[]`,
		"not UTF-8":             "{\"a\":\"\xff\"}",
		"link with company":     `{"a":{"$link":"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy","b":1}}`,
		"link that is no CID":   `{"a":{"$link":"x"}}`,
		"link to a CIDv0":       `{"a":{"$link":"QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"}}`,
		"bytes that are none":   `{"a":{"$bytes":"!"}}`,
		"top level is bytes":    `{"$bytes":"AAEC"}`,
		"nested far too deep":   strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000),
		"arrays far too deep":   `{"a":` + strings.Repeat("[", 500_000),
		"cut":                   `{"a":`,
		"closed by the wrong":   `{"a":[}`,
		"blob of negative size": `{"a":{"$type":"blob","ref":{"$link":"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"},"mimeType":"a/b","size":-1}}`,
		"too long":              `{"a":"` + strings.Repeat("x", MaxJSONBytes) + `"}`,
		"too long as CBOR":      `{"a":"` + strings.Repeat("x", MaxRecordBytes) + `"}`,
	} {
		_, err := EncodeJSONToCBOR([]byte(in))
		assert.Error(t, err, name)
	}
}

func TestWholeNumbersInOtherNotationsAreIntegers(t *testing.T) {
	t.Parallel()
	v, err := DecodeJSON([]byte(`{"a":1.0,"b":1e3,"c":-0,"d":-9007199254740991}`))
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"a": int64(1), "b": int64(1000), "c": int64(0), "d": int64(-9007199254740991)}, v)
}

// FuzzDecodeCBOR: what is accepted is the one form our encoder writes, the
// library reads it alike, and its JSON form leads back to the same bytes.
func FuzzDecodeCBOR(f *testing.F) {
	for _, nsid := range Records() {
		for _, ex := range examples(f, "valid", nsid) {
			b, err := EncodeJSONToCBOR(ex.Record)
			require.NoError(f, err)
			f.Add(b)
		}
	}
	f.Add([]byte{0xa1, 0x61, 'a', 0x1b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeCBOR(b)
		if err != nil {
			return
		}
		again, err := EncodeCBOR(v)
		require.NoError(t, err)
		require.Equal(t, b, again) // L1
		_, err = atdata.UnmarshalCBOR(b)
		require.NoError(t, err)
		js, err := CBORToJSON(b)
		require.NoError(t, err)
		if back, err := EncodeJSONToCBOR(js); err == nil { // fails on integers that are not safe
			require.Equal(t, b, back)
		}
	})
}

// FuzzValidate: no input panics, and a refusal is always an *InvalidError.
func FuzzValidate(f *testing.F) {
	for _, nsid := range Records() {
		for _, kind := range []string{"valid", "invalid"} {
			for _, ex := range examples(f, kind, nsid) {
				b, err := EncodeJSONToCBOR(ex.Record)
				require.NoError(f, err)
				f.Add(nsid, ex.RKey, b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, nsid, rkey string, b []byte) {
		if err := Validate(nsid, rkey, b); err != nil {
			var invalid *InvalidError
			require.ErrorAs(t, err, &invalid)
			require.NotContains(t, invalid.Reason, "panic")
		}
	})
}
