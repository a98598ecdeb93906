package dagcbor_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"testing"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOnlyCanonicalBytesPass(t *testing.T) {
	t.Parallel()
	link := "d82a5825000171122066da6655bf8da79b69a87299cf170fed8497fa3f2379dc4a8bfe1e28cab5cd93"
	for name, c := range map[string]struct {
		hex string
		ok  bool
	}{
		"zero": {"00", true}, "23": {"17", true}, "24": {"1818", true}, "23 in two bytes": {"1817", false},
		"255 in three": {"1900ff", false}, "65535 in five": {"1a0000ffff", false}, "32 bits in nine": {"1b00000000ffffffff", false},
		"largest": {"1b7fffffffffffffff", true}, "over int64": {"1b8000000000000000", false},
		"least": {"3b7fffffffffffffff", true}, "under int64": {"3b8000000000000000", false},
		"null": {"f6", true}, "undefined": {"f7", false}, "true": {"f5", true}, "simple in two": {"f8f5", false},
		"float16": {"f93c00", false}, "float32": {"fa3f800000", false}, "float64": {"fb3ff0000000000000", false},
		"break": {"ff", false}, "indefinite array": {"9fff", false}, "indefinite text": {"7fff", false}, "reserved": {"1c", false},
		"text": {"6161", true}, "text cut": {"6261", false}, "not UTF-8": {"61ff", false}, "surrogate": {"63eda080", false},
		"map": {"a2616101616201", true}, "longer key first": {"a262616101616201", false}, "keys unsorted": {"a2616201616101", false},
		"key doubled": {"a2616101616101", false}, "key a number": {"a10101", false}, "key bytes": {"a1416101", false},
		"link": {link, true}, "tag 41": {"d829" + link[4:], false}, "tag long form": {"d9002a" + link[4:], false},
		"link without zero": {"d82a5824" + link[10:], false}, "link empty": {"d82a4100", false}, "link as text": {"d82a6161", false},
		"array of a billion": {"9a3b9aca00", false}, "map of a billion": {"ba3b9aca00", false}, "bytes of 2^63": {"5b7fffffffffffffff", false},
		"two values": {"0000", false}, "nothing": {"", false}, "head cut": {"19", false},
	} {
		b, err := hex.DecodeString(c.hex)
		require.NoError(t, err, name)
		err = dagcbor.Validate(b)
		if c.ok {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorIs(t, err, dagcbor.ErrSyntax, name)
		}
	}
}

func TestNestingIsCapped(t *testing.T) {
	t.Parallel()
	deep := func(n int) []byte { return append(bytes.Repeat([]byte{0x81}, n), 0x80) }
	assert.NoError(t, dagcbor.Validate(deep(dagcbor.MaxDepth)))
	assert.ErrorIs(t, dagcbor.Validate(deep(dagcbor.MaxDepth+1)), dagcbor.ErrSyntax)
	assert.ErrorIs(t, dagcbor.Validate(deep(1_000_000)), dagcbor.ErrSyntax)
}

// A caller may take memory for what a head announces.
func TestHeadsAnnounceNoMoreThanThereIs(t *testing.T) {
	t.Parallel()
	_, err := dagcbor.NewReader([]byte{0x9a, 0x3b, 0x9a, 0xca, 0}).Array()
	require.ErrorIs(t, err, dagcbor.ErrSyntax)
	_, err = dagcbor.NewReader([]byte{0xa2, 0x61, 'a', 1}).Map()
	require.ErrorIs(t, err, dagcbor.ErrSyntax)
}

func TestWritingReadsBack(t *testing.T) {
	t.Parallel()
	for _, v := range []int64{0, 1, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, -1, -24, -25, -256, -257, math.MinInt64} {
		b := dagcbor.AppendInt(nil, v)
		require.NoError(t, dagcbor.Validate(b))
		got, err := dagcbor.NewReader(b).Int()
		require.NoError(t, err)
		require.Equal(t, v, got)
	}
}

// What passes here and holds no float is what the other implementation decodes
// and encodes to the same bytes.
func FuzzRecord(f *testing.F) {
	f.Add(repotest.Note("seed"))
	f.Add(repotest.Vector(f, "atdata/testdata/feedpost_record.cbor"))
	var fixtures []struct {
		CBOR []byte `json:"cbor_base64"`
	}
	_ = json.Unmarshal(repotest.Vector(f, "atdata/testdata/data-model-fixtures.json"), &fixtures)
	for _, x := range fixtures {
		f.Add(x.CBOR)
	}
	f.Add([]byte{0xa1, 0x61, 'a', 0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{0xa1, 0x61, 'a'}, bytes.Repeat([]byte{0x81}, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if dagcbor.ValidateMap(b) != nil {
			return
		}
		m, err := atdata.UnmarshalCBOR(b)
		if err != nil {
			return // the other side also judges blobs and types
		}
		again, err := atdata.MarshalCBOR(m)
		if err == nil {
			require.Equal(t, b, again)
		}
	})
}
