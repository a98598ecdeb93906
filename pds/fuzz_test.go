package pds

import (
	"mime"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
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

// FuzzImportedRecord: whatever an import takes can be read back, and its blobs have CIDs and types.
func FuzzImportedRecord(f *testing.F) {
	for _, value := range []string{
		`{"$type":"com.example.note","text":"words"}`,
		`{"$type":"com.example.note","photo":{"$type":"blob","ref":{"$link":"` + someBlob + `"},"mimeType":"image/png","size":3}}`,
		`{"$type":"com.example.note","list":[{"a":{"cid":"` + someBlob + `","mimeType":"image/*"}},null,true,-7]}`,
	} {
		data, err := lexicons.EncodeJSONToCBOR([]byte(value))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte{0xa1, 0x61, 'a', 0xfb, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		refs, err := importedRecord(repo.CIDForCBOR(data), data)
		if err != nil {
			var bad *repo.Reject
			require.ErrorAs(t, err, &bad)
			return
		}
		_, err = viewRecord("did:plc:ewvi7nxzyoun6zhxrhs64oiz", note, "a", repo.CIDForCBOR(data).Bytes(), data)
		require.NoError(t, err)
		for _, ref := range refs {
			require.True(t, ref.cid.Defined())
			_, _, err := mime.ParseMediaType(ref.mime)
			require.NoError(t, err)
		}
	})
}

const someBlob = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

// FuzzDocument: what a stranger's did.json says is compared with what an account needs. Only the very key at the very address passes.
func FuzzDocument(f *testing.F) {
	key, err := atcrypto.ParsePrivateBytesK256([]byte(strings.Repeat("k", 32)))
	require.NoError(f, err)
	pub, err := key.PublicKey()
	require.NoError(f, err)
	c := credentials{DID: "did:web:library.example.org", Handle: "library.example.org", Key: pub.DIDKey(), Endpoint: "https://pds.example.org"}
	f.Add(pub.Multibase(), "https://pds.example.org", "library.example.org")
	f.Add(pub.DIDKey(), "https://pds.example.org/", "Library.example.org")
	f.Add("z6Mk", "ftp://pds.example.org", "")
	f.Add("z", "", "at://")
	f.Fuzz(func(t *testing.T, multibase, endpoint, handle string) {
		id := &indigo.Identity{
			DID: c.DID, AlsoKnownAs: []string{"at://" + handle},
			Keys:     map[string]indigo.VerificationMethod{keyName: {Type: "Multikey", PublicKeyMultibase: multibase}},
			Services: map[string]indigo.ServiceEndpoint{serviceName: {Type: serviceType, URL: endpoint}},
		}
		require.Equal(t, multibase == pub.Multibase(), c.keyIn(id), "one key has one spelling")
		require.Equal(t, strings.TrimSuffix(endpoint, "/") == c.Endpoint, c.endpointIn(id))
		if len(c.missing(id)) == 0 {
			require.True(t, strings.EqualFold(handle, c.Handle))
		}
		for _, text := range []string{multibase, "did:key:" + multibase} {
			if got, err := atcrypto.ParsePublicDIDKey(text); err == nil {
				again, err := atcrypto.ParsePublicDIDKey(got.DIDKey())
				require.NoError(t, err)
				require.True(t, again.Equal(got))
			}
		}
	})
}
