package pds

import (
	"net/http"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/scope"
)

// app is an account as an app reaches it, with what the app was granted.
type app struct {
	*user
	actor syntax.DID
	scope string
}

// letIn puts apps in front of the server, known by the token they send.
func (b *bed) letIn(apps map[string]*app) {
	b.t.Helper()
	b.server.Load().oauth = func(h http.Header, r *http.Request) (*oauth.Session, error) {
		_, tok, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		a := apps[tok]
		if a == nil {
			h.Set("DPoP-Nonce", "n2")
			h.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			return nil, xrpc.Errorf(http.StatusUnauthorized, "use_dpop_nonce", "another nonce is needed")
		}
		set, err := scope.Parse(a.scope, lexicons.PermissionSetOf)
		if err != nil {
			return nil, err
		}
		return &oauth.Session{ID: tok, Account: a.DID, Actor: a.actor, Client: "https://app.example.com/client.json", Scope: set}, nil
	}
}

func (b *bed) dpop(tok, method, path, mime, body string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+"/xrpc/"+path, strings.NewReader(body))
	require.NoError(b.t, err)
	req.Header.Set("Authorization", "DPoP "+tok)
	if mime != "" {
		req.Header.Set("Content-Type", mime)
	}
	return b.do(req)
}

// Every method that an app may call asks for the permission it needs, by name.
func TestAppMayDoWhatItWasGrantedAndNoMore(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.create(note, "old", m{"text": "old"}))
	a := &app{user: u, actor: u.DID}
	b.letIn(map[string]*app{"tok": a})
	record := `{"repo":"` + u.DID.String() + `","collection":"com.example.note","rkey":"%","record":{"text":"x"}}`
	at := func(key string) string { return strings.Replace(record, "%", key, 1) }
	many := `{"repo":"` + u.DID.String() + `","writes":[
		{"$type":"com.atproto.repo.applyWrites#create","collection":"com.example.note","rkey":"m","value":{}},
		{"$type":"com.atproto.repo.applyWrites#delete","collection":"com.example.other","rkey":"m"}]}`
	for _, row := range []struct {
		method, path, mime, body string
		enough, less, missing    string
	}{
		{http.MethodPost, "com.atproto.repo.createRecord", "application/json", at("new"),
			"repo:com.example.note?action=create", "repo:com.example.note?action=update repo:com.example.other", "repo:com.example.note?action=create"},
		{http.MethodPost, "com.atproto.repo.putRecord", "application/json", at("old"),
			"repo:*?action=create&action=update", "repo:com.example.note?action=create", "repo:com.example.note?action=update"},
		{http.MethodPost, "com.atproto.repo.deleteRecord", "application/json", at("old"),
			"repo:com.example.note?action=delete", "repo:com.example.note?action=create&action=update", "repo:com.example.note?action=delete"},
		{http.MethodPost, "com.atproto.repo.applyWrites", "application/json", many,
			"", "repo:com.example.note", "repo:com.example.other?action=delete"},
		{http.MethodPost, "com.atproto.repo.uploadBlob", "image/png", string(png),
			"blob:image/*", "blob:image/jpeg", "blob:image/png"},
		{http.MethodPost, "com.atproto.repo.uploadBlob", "application/pdf", string(png),
			"", "blob:application/pdf", "blob:image/png"},
		{http.MethodGet, "com.atproto.server.getServiceAuth?lxm=org.city-sync.ledger.getBalance&aud=did:web:ledger.example.com%23citysync_ledger", "", "",
			"rpc:org.city-sync.ledger.getBalance?aud=*", "rpc:org.city-sync.ledger.getOpening?aud=*", "rpc:org.city-sync.ledger.getBalance?aud=did:web:ledger.example.com%23citysync_ledger"},
		{http.MethodGet, "com.atproto.server.getServiceAuth?aud=did:web:ledger.example.com%23citysync_ledger", "", "",
			"rpc:*?aud=did:web:ledger.example.com%23citysync_ledger", "rpc:org.city-sync.ledger.getBalance?aud=*", "rpc:*?aud=did:web:ledger.example.com%23citysync_ledger"},
	} {
		a.scope = "atproto " + row.less
		no := b.dpop("tok", row.method, row.path, row.mime, row.body)
		assert.Equal(t, http.StatusForbidden, no.Status, "%s: %s", row.path, no.Raw)
		assert.Equal(t, "InsufficientScope", no.name())
		assert.Contains(t, no.str("message"), row.missing)
		if row.enough != "" {
			a.scope = "atproto " + row.enough
			b.ok(b.dpop("tok", row.method, row.path, row.mime, row.body))
		}
	}
	assert.Zero(t, b.count(`select count(*) from record where rkey = 'm'`))
}

func TestAppSeesTheAddressOnlyWhenItMay(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	_, err := b.pool.Exec(t.Context(), `update account set email = 'user@example.org' where did = $1`, u.DID)
	require.NoError(t, err)
	a := &app{user: u, actor: u.DID, scope: "atproto"}
	b.letIn(map[string]*app{"tok": a})
	see := func() answer { return b.ok(b.dpop("tok", http.MethodGet, "com.atproto.server.getSession", "", "")) }
	assert.NotContains(t, see().JSON, "email")
	assert.NotContains(t, see().JSON, "emailConfirmed")
	a.scope = "atproto account:email"
	assert.Equal(t, "user@example.org", see().str("email"))
}

func TestAppIsNeverTheOwner(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	a := &app{user: u, actor: u.DID, scope: "atproto repo:* blob:*/* account:repo?action=manage identity:* transition:generic"}
	b.letIn(map[string]*app{"tok": a, "stranger": {user: u, actor: other.DID, scope: "atproto repo:*"}})
	assert.Equal(t, "Forbidden", b.dpop("tok", http.MethodPost, "com.atproto.server.requestAccountDelete", "", "").name())
	elsewhere := `{"repo":"` + other.DID.String() + `","collection":"com.example.note","record":{}}`
	assert.Equal(t, "Forbidden", b.dpop("tok", http.MethodPost, "com.atproto.repo.createRecord", "application/json", elsewhere).name())
	own := `{"repo":"` + u.DID.String() + `","collection":"com.example.note","record":{}}`
	assert.Equal(t, "NotController", b.dpop("stranger", http.MethodPost, "com.atproto.repo.createRecord", "application/json", own).name(),
		"a grant to one who does not act for the account is nothing")
	refused := b.dpop("unknown", http.MethodGet, "com.atproto.server.getSession", "", "")
	assert.Equal(t, http.StatusUnauthorized, refused.Status)
	assert.Equal(t, "n2", refused.Header.Get("DPoP-Nonce"))
	assert.Contains(t, refused.Header.Get("WWW-Authenticate"), "use_dpop_nonce")
}

func TestSessionTokenIsNoAppsToken(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	refused := b.dpop(u.Access, http.MethodGet, "com.atproto.server.getSession", "", "")
	assert.Equal(t, http.StatusUnauthorized, refused.Status)
	assert.Equal(t, "invalid_token", refused.name())
}
