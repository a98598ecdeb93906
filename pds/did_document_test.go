package pds

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (b *bed) page(path, host string) answer {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.url+path, nil)
	require.NoError(b.t, err)
	req.Host = host
	return b.do(req)
}

// The reference names itself did:web:HOST and serves no document of it.
func TestOwnDIDDocumentIsServedOnTheOwnHost(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) {
		u, err := url.Parse(c.PublicURL)
		require.NoError(t, err)
		c.ServiceDID = webDID(u)
	})
	doc := b.ok(b.page("/.well-known/did.json", ""))
	assert.Equal(t, b.cfg.ServiceDID.String(), doc.str("id"))
	assert.Equal(t, []any{m{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": b.url}}, doc.JSON["service"])
	assert.Equal(t, "*", doc.Header.Get("Access-Control-Allow-Origin"))

	b.account("user")
	assert.Equal(t, http.StatusNotFound, b.page("/.well-known/did.json", "user.test").Status, "the host of an account's handle is not ours")
}

func TestServerWithADIDOfTheDirectoryServesNoSecondDocument(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	assert.Equal(t, http.StatusNotFound, b.page("/.well-known/did.json", "").Status)
}
