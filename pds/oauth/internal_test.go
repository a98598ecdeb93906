package oauth

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThumbprintOfTheExampleOfRFC9449(t *testing.T) {
	t.Parallel()
	k := jwk{Kty: "EC", Crv: "P-256", X: "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", Y: "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}
	_, jkt, err := k.key()
	require.NoError(t, err)
	assert.Equal(t, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", jkt)
}

func TestProofOfTheExampleOfRFC9449IsVerified(t *testing.T) {
	t.Parallel()
	const proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	p, err := parseJWS(proof, maxProof)
	require.NoError(t, err)
	key, _, err := p.head.JWK.key()
	require.NoError(t, err)
	assert.True(t, p.verified(key))
	p.signed += "x"
	assert.False(t, p.verified(key))
}

func TestChallengeOfTheExampleOfRFC7636(t *testing.T) {
	t.Parallel()
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	assert.True(t, isChallenge(challenge))
	assert.True(t, verifies(verifier, challenge))
	assert.False(t, verifies(verifier+"a", challenge))
	assert.False(t, verifies(challenge, challenge), "plain")
}

func TestOneKeyHasOneSpelling(t *testing.T) {
	t.Parallel()
	const x, y = "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"
	for name, k := range map[string]jwk{
		"spare bits set": {Kty: "EC", Crv: "P-256", X: x[:42] + "t", Y: y},
		"padding":        {Kty: "EC", Crv: "P-256", X: x + "=", Y: y},
		"a zero before":  {Kty: "EC", Crv: "P-256", X: "AA" + x, Y: y},
		"cut":            {Kty: "EC", Crv: "P-256", X: x[:40], Y: y},
		"another type":   {Kty: "OKP", Crv: "P-256", X: x, Y: y},
		"for encryption": {Kty: "EC", Crv: "P-256", X: x, Y: y, Use: "enc"},
		"another alg":    {Kty: "EC", Crv: "P-256", X: x, Y: y, Alg: "ES384"},
	} {
		_, _, err := k.key()
		assert.Error(t, err, name)
	}
}

func TestAnswerGoesWhereTheClientWaits(t *testing.T) {
	t.Parallel()
	params := url.Values{"code": {"a b"}, "iss": {"https://pds.example.com"}}
	const encoded = "code=a+b&iss=https%3A%2F%2Fpds.example.com"
	for _, row := range []struct{ uri, mode, want string }{
		{"https://app.example.com/cb", modeQuery, "https://app.example.com/cb?" + encoded},
		{"https://app.example.com/cb?x=y", modeQuery, "https://app.example.com/cb?x=y&" + encoded},
		{"https://app.example.com/cb?", modeQuery, "https://app.example.com/cb?" + encoded},
		{"https://app.example.com/cb?x=y", modeFragment, "https://app.example.com/cb?x=y#" + encoded},
		{"com.example.app:/cb", modeQuery, "com.example.app:/cb?" + encoded},
	} {
		assert.Equal(t, row.want, redirectTo(row.uri, row.mode, params))
	}
}

func TestNameOfAClientStaysOnItsLine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "My app", displayName("  My\n\tapp\u202e\u200b\x00 "))
	assert.Equal(t, "Aplicación de ñandúes 市", displayName("Aplicación de ñandúes 市"))
	assert.Len(t, []rune(displayName(strings.Repeat("é", 500))), maxName)
}

func TestRedirectRules(t *testing.T) {
	t.Parallel()
	at, err := url.Parse("https://app.example.com/client.json")
	require.NoError(t, err)
	for _, row := range []struct {
		uri, application string
		ok               bool
	}{
		{"https://app.example.com/cb", "web", true},
		{"https://other.example.com/cb", "web", true},
		{"https://app.example.com/cb", "native", true},
		{"http://127.0.0.1/cb", "native", true},
		{"http://[::1]:8080/cb", "native", true},
		{"com.example.app:/cb", "native", true},
		{"http://127.0.0.1/cb", "web", false},
		{"https://127.0.0.1/cb", "native", false},
		{"http://localhost/cb", "native", false},
		{"https://localhost/cb", "web", false},
		{"https://intranet/cb", "web", false},
		{"com.example.app:/cb", "web", false},
		{"com.example.app://cb", "native", false},
		{"com.example.app:cb", "native", false},
		{"com.example.evil:/cb", "native", false},
		{"app:/cb", "native", false},
		{"", "web", false},
		{"/cb", "web", false},
		{"https://app.example.com/" + strings.Repeat("x", maxURL), "web", false},
	} {
		err := checkRedirect(row.uri, row.application, at, false)
		assert.Equal(t, row.ok, err == nil, "%s for %s: %v", row.uri, row.application, err)
	}
}
