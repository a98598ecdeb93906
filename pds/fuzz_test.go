package pds

import (
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
)

// FuzzSessionToken: of all texts only those that this server signed, of the type that is asked for and not over, are tokens.
func FuzzSessionToken(f *testing.F) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	server := &tokens{secret: []byte(strings.Repeat("s", 32)), audience: "did:web:pds.test"}
	other := &tokens{secret: []byte(strings.Repeat("o", 32)), audience: "did:web:pds.test"}
	said := token{DID: syntax.DID("did:plc:ewvi7nxzyoun6zhxrhs64oiz"), Session: "abc", Generation: 3}
	access, err := server.sign(typAccess, said, now, now.Add(time.Hour))
	require.NoError(f, err)
	for _, s := range []struct {
		by  *tokens
		typ string
		ttl time.Duration
	}{{server, typAccess, time.Hour}, {server, typRefresh, time.Hour}, {server, typAccess, -time.Hour}, {other, typAccess, time.Hour}} {
		raw, err := s.by.sign(s.typ, said, now, now.Add(s.ttl))
		require.NoError(f, err)
		f.Add(raw)
		f.Add(raw + "=")
	}
	f.Add("eyJhbGciOiJub25lIn0." + strings.Split(access, ".")[1] + ".")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := server.read(typAccess, raw, now)
		if err != nil {
			require.Empty(t, got)
			return
		}
		require.Equal(t, said, got)
		require.Equal(t, access[:strings.LastIndexByte(access, '.')], raw[:strings.LastIndexByte(raw, '.')])
	})
}

// FuzzServiceRef: whatever a client writes in the header, what is taken of it is one DID and one name, written the same way back.
func FuzzServiceRef(f *testing.F) {
	for _, s := range []string{"did:web:a.example#thing", "did:plc:ewvi7nxzyoun6zhxrhs64oiz#", "#a", "did:web:a#b#c", "did:web:a.example# b", "did:web:a%3A80#b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		ref, err := parseServiceRef(raw)
		if err != nil {
			require.Empty(t, ref)
			return
		}
		require.Equal(t, raw, ref.String())
		_, err = syntax.ParseDID(ref.DID.String())
		require.NoError(t, err)
		require.NotContains(t, ref.Fragment, "#")
		require.False(t, strings.ContainsFunc(ref.Fragment, func(r rune) bool { return r <= ' ' || r == 0x7f }), "no space, no control character")
	})
}
