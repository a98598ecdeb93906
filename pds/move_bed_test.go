package pds

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/xrpc"
)

// neighbour is another server in the same network: one directory, one clock, other keys and accounts.
func (b *bed) neighbour(tune ...func(*Config)) *bed {
	b.t.Helper()
	n := newBed(b.t, append([]func(*Config){func(c *Config) { c.ServiceDID = "did:plc:neighbourneighbourneigh" }}, tune...)...)
	n.clock, n.plcAt = b.clock, b.plcAt
	n.plc = identity.NewPLC(b.plcAt, http.DefaultClient)
	n.dir = identity.NewDirectory(identity.Config{PLCURL: b.plcAt, HTTP: http.DefaultClient, Clock: b.clock})
	n.deps.Clock, n.deps.PLC, n.deps.Directory = n.clock, n.plc, n.dir
	n.restart()
	return n
}

// web is the part of the network that has names: whatever host is asked for by https answers from here.
type web struct {
	mu    sync.Mutex // guards pages
	pages map[string]string
}

func (w *web) set(url, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[url] = body
}

// withWeb lets a server reach a network that stands on loopback.
func (b *bed) withWeb() *web {
	b.t.Helper()
	w := &web{pages: map[string]string{}}
	front := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		body, ok := w.pages[r.Host+r.URL.Path]
		w.mu.Unlock()
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write([]byte(body))
	}))
	b.t.Cleanup(front.Close)
	client := &http.Client{Transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
			return d.DialContext(ctx, network, front.Listener.Addr().String())
		},
	}}
	b.t.Cleanup(client.CloseIdleConnections)
	b.dir = identity.NewDirectory(identity.Config{PLCURL: b.plcAt, HTTP: client, Clock: b.clock})
	b.deps.Directory, b.deps.HTTP = b.dir, client
	b.deps.ResolveHandle = (&identity.Handles{HTTP: client}).Resolve
	b.restart()
	return w
}

// document is a did.json as its owner writes it.
func document(did, handle, multikey, endpoint string) string {
	raw, err := json.Marshal(m{
		"id": did, "alsoKnownAs": []string{"at://" + handle},
		"verificationMethod": []m{{"id": did + "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": multikey}},
		"service":            []m{{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": endpoint}},
	})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func (b *bed) send(token, nsid, mime string, body []byte) answer {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/"+nsid, bytes.NewReader(body))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", mime)
	req.Header.Set("Authorization", "Bearer "+token)
	return b.do(req)
}

// letGo is a service token by which the account's present host lets it go to another.
func (u *user) letGo(to *bed) string {
	u.t.Helper()
	return u.ok(u.get(u.Access, "com.atproto.server.getServiceAuth", "aud", to.cfg.ServiceDID.String(), "lxm", createAccountNSID)).str("token")
}

func (u *user) car() []byte {
	u.t.Helper()
	return u.ok(u.get("", "com.atproto.sync.getRepo", "did", u.DID.String())).Raw
}

// arriveAt makes the account on another server, deactivated there.
func (u *user) arriveAt(to *bed, name string) *user {
	u.t.Helper()
	a := to.ok(to.post(u.letGo(to), createAccountNSID, m{
		"did": u.DID, "handle": name + ".test", "password": password, "inviteCode": to.invite(),
	}))
	require.Equal(u.t, u.DID.String(), a.str("did"))
	return &user{bed: to, DID: u.DID, Handle: a.str("handle"), Access: a.str("accessJwt"), Refresh: a.str("refreshJwt")}
}

func (u *user) importCAR(car []byte) answer {
	u.t.Helper()
	return u.send(u.Access, "com.atproto.repo.importRepo", carType, car)
}

// point lets the DID name the new server: credentials there, signature here, submitted there.
func (u *user) point(there *user) {
	u.t.Helper()
	in := there.ok(there.get(there.Access, "com.atproto.identity.getRecommendedDidCredentials")).JSON
	in["token"] = password // no mail comes here
	signed := u.ok(u.post(u.Access, "com.atproto.identity.signPlcOperation", in))
	there.ok(there.post(there.Access, "com.atproto.identity.submitPlcOperation", m{"operation": signed.JSON["operation"]}))
	require.NoError(u.t, u.dir.Purge(u.t.Context(), u.DID.AtIdentifier()))
}

func (u *user) activate() answer {
	u.t.Helper()
	return u.post(u.Access, "com.atproto.server.activateAccount", nil)
}

func (u *user) status() answer {
	u.t.Helper()
	return u.ok(u.get(u.Access, "com.atproto.server.checkAccountStatus"))
}

// multikeyIn is the key that a refusal asks the owner of a document for.
func multikeyIn(t *testing.T, message string) string {
	t.Helper()
	_, rest, ok := strings.Cut(message, "publicKeyMultibase ")
	require.True(t, ok, message)
	key, _, _ := strings.Cut(rest, ";")
	return key
}

// signService signs what the account's former host would.
func signService(key atcrypto.PrivateKey, did syntax.DID, to *bed) (string, error) {
	return xrpc.SignServiceToken(key, did.String(), to.cfg.ServiceDID.String(), createAccountNSID, to.clock.Now(), time.Minute)
}

func mustRecord(t *testing.T, fields m) []byte {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	rec, err := newRecord(note, "a", raw, nil)
	require.NoError(t, err)
	return rec.CBOR
}
