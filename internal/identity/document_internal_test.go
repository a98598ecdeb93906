package identity

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	me  = syntax.DID("did:plc:meaaaaaaaaaaaaaaaaaaaaaa")
	key = "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"
)

func TestOnlyWhatADocumentDeclaresForItselfCounts(t *testing.T) { // I1
	t.Parallel()
	id, err := parseDocument(me, []byte(`{"@context":["x"],"id":"`+me.String()+`","alsoKnownAs":["at://me.test",5,"https://me.example"],
		"verificationMethod":[
			{"id":"did:plc:otheraaaaaaaaaaaaaaaaaaa#atproto","type":"Multikey","controller":"`+me.String()+`","publicKeyMultibase":"zforeign"},
			{"id":"#atproto","type":"Multikey","controller":"did:plc:otheraaaaaaaaaaaaaaaaaaa","publicKeyMultibase":"zcontrolled"},
			"text", null, {"id":5}, {"id":"#","controller":"`+me.String()+`"}, {"id":"atproto","controller":"`+me.String()+`"},
			{"id":"`+me.String()+`#atproto","type":"Multikey","controller":"`+me.String()+`","publicKeyMultibase":"`+key+`"},
			{"id":"#atproto","type":"Multikey","controller":"`+me.String()+`","publicKeyMultibase":"zsecond"}],
		"service":[
			{"id":"#linked","type":"LinkedDomains","serviceEndpoint":{"origins":["https://x"]}},
			{"id":"#file","type":"X","serviceEndpoint":"file:///etc/passwd"},
			{"id":"#user","type":"X","serviceEndpoint":"https://u:p@example.org"},
			{"id":"did:plc:otheraaaaaaaaaaaaaaaaaaa#atproto_pds","type":"X","serviceEndpoint":"https://foreign.example"},
			{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"http://localhost:2581"},
			{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"https://second.example"}]}`))
	require.NoError(t, err)
	assert.Equal(t, []string{"at://me.test", "https://me.example"}, id.AlsoKnownAs)
	assert.Equal(t, map[string]identity.VerificationMethod{"atproto": {Type: "Multikey", PublicKeyMultibase: key}}, id.Keys)
	assert.Equal(t, map[string]identity.ServiceEndpoint{"atproto_pds": {Type: "AtprotoPersonalDataServer", URL: "http://localhost:2581"}}, id.Services)
	assert.Equal(t, syntax.HandleInvalid, id.Handle)
	_, err = id.PublicKey()
	require.NoError(t, err)
}

func TestDocumentsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"another DID": `{"id":"did:plc:otheraaaaaaaaaaaaaaaaaaa"}`,
		"no id":       `{}`,
		"no JSON":     `<html>`,
		"wrong form":  `{"id":"` + me.String() + `","service":{}}`,
		"too long":    `{"id":"` + me.String() + `","x":"` + strings.Repeat("x", maxDocBytes) + `"}`,
	} {
		_, err := parseDocument(me, []byte(raw))
		require.ErrorIs(t, err, identity.ErrDIDResolutionFailed, name)
	}
	many := `{"id":"` + me.String() + `","service":[` + strings.Repeat(`{"id":"#x","type":"X","serviceEndpoint":"https://x.example"},`, 100) +
		`{"id":"#late","type":"X","serviceEndpoint":"https://x.example"}]}`
	id, err := parseDocument(me, []byte(many))
	require.NoError(t, err)
	assert.NotContains(t, id.Services, "late")
}

// The documents that the network's own library is tested with read the same here.
func TestPublicDocumentsReadAsTheLibraryReadsThem(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/bluesky-social/indigo").Output()
	require.NoError(t, err)
	for _, name := range []string{"did_plc_doc.json", "did_plc_doc_legacy.json", "did_web_doc.json"} {
		raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "atproto/identity/testdata", name))
		require.NoError(t, err)
		var doc identity.DIDDocument
		require.NoError(t, json.Unmarshal(raw, &doc))
		want := identity.ParseIdentity(&doc)
		got, err := parseDocument(doc.DID, raw)
		require.NoError(t, err, name)
		assert.Equal(t, want.Keys, got.Keys, name)
		assert.Equal(t, want.Services, got.Services, name)
		assert.ElementsMatch(t, want.AlsoKnownAs, got.AlsoKnownAs, name)
	}
}

func TestWebHosts(t *testing.T) {
	t.Parallel()
	for _, did := range []syntax.DID{"did:web:example.org", "did:web:city.example.org", "did:web:Example.Org"} {
		_, err := webHost(did)
		require.NoError(t, err, did)
	}
	for _, did := range []syntax.DID{"did:web:localhost", "did:web:localhost%3A2581", "did:web:example.org%3A8443", "did:web:example.org:path", "did:web:127.0.0.1",
		"did:web:single", "did:web:x.local", "did:web:x.internal", "did:web:x.test", "did:web:x.onion", "did:web:a%2Fb.org"} {
		_, err := webHost(did)
		require.ErrorIs(t, err, identity.ErrDIDNotFound, did)
	}
	assert.True(t, validPLC(me))
	for _, did := range []syntax.DID{"did:plc:short", "did:plc:meaaaaaaaaaaaaaaaaaaaaa1", "did:plc:MEaaaaaaaaaaaaaaaaaaaaaa", "did:plc:meaaaaaaaaaaaaaaaaaaaa..", "did:plc:meaaaaaaaaaaaaaaaaaaaaaaa"} {
		assert.False(t, validPLC(did), did)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"id":"` + me.String() + `","alsoKnownAs":["at://x"],"service":[{"id":"#a","type":"b","serviceEndpoint":"https://c"}]}`))
	f.Add([]byte(`{"id":"` + me.String() + `","verificationMethod":[{"id":"#a","type":"b","controller":"` + me.String() + `","publicKeyMultibase":"z"}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := parseDocument(me, raw)
		if err != nil {
			return
		}
		require.Equal(t, me, id.DID)
		_, _ = id.PublicKey() // must not panic
	})
}
