package xrpc

import (
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"
)

func FuzzParseToken(f *testing.F) {
	key, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(f, err)
	tok, err := SignServiceToken(key, "did:plc:a", "did:plc:b", "a.b.c", time.Unix(1_700_000_000, 0), time.Minute)
	require.NoError(f, err)
	f.Add(tok)
	f.Add("")
	f.Add("..")
	f.Add("e30.e30.")
	f.Add("eyJhbGciOiJub25lIn0.eyJleHAiOjFlOTk5fQ.AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseToken(s)
		if err != nil {
			return
		}
		// What parses says when it ends, and its signed part is what stands before the last dot.
		require.Positive(t, got.exp)
		require.Len(t, got.sig, 64)
		require.Equal(t, s, string(got.signed)+"."+strictBase64.EncodeToString(got.sig))
	})
}
