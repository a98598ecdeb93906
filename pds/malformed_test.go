package pds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

// fields are the names of what methods take, in bodies as in addresses.
var fields = []string{
	"account", "accounts", "allowTakendown", "aud", "authFactorToken", "cid", "cids", "code", "codeCount", "codes", "collection", "collections", "commit", "content",
	"controller", "createAvailable", "cursor", "deleteAfter", "did", "dids", "email", "exp", "forAccount", "forAccounts", "handle", "hostname", "id", "identifier", "includeUsed",
	"inviteCode", "limit", "lxm", "name", "note", "operation", "password", "plcOp", "preferences", "privileged", "reason", "reasonType", "record",
	"recoveryKey", "recipientDid", "repo", "reverse", "rkey", "role", "scope", "senderDid", "since", "sort", "subject", "swapCommit", "swapRecord", "token", "uri", "useCount",
	"validate", "value", "writes", "alsoKnownAs", "rotationKeys", "services", "verificationMethods", "signingKey", "takedown", "deactivated", "comment", "blob", "query",
}

// odd are values that no field is meant for, and some that look right.
var odd = []any{
	nil, "", "\x00", "a\x00b", "\ufeff", "x", -1, 0, 1e300, true, []any{}, []any{nil}, []any{"\x00"}, []any{m{"$type": "x"}}, m{}, m{"$type": "\x00", "did": "\x00", "uri": "at://\x00/a/b"},
	strings.Repeat("x", 9000), "did:plc:\x00", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "did:web:%00", "did:example:" + strings.Repeat("a", 3000), "nobody.test", "no\x00body.test",
	"at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/a.b.c/d", "a.b.c", someCID, "9999999999999999999999", "2026-11-20T09:00:00Z", "👩‍🌾\U0010ffff",
}

// typed are the fields that are no text: what stands beside an odd text must not be what refuses it.
func typed(f string, text any) any {
	switch f {
	case "allowTakendown", "validate", "privileged", "createAvailable", "includeUsed", "reverse":
		return true
	case "codeCount", "useCount", "limit", "exp", "id":
		return 1
	case "accounts", "cids", "codes", "collections", "dids", "forAccounts", "alsoKnownAs", "rotationKeys":
		return []any{text}
	case "preferences":
		return []any{m{"$type": "app.bsky.x", "x": text}}
	case "writes":
		return []any{m{"$type": applyWritesNSID + "#create", "collection": note, "rkey": text, "value": m{"text": text}}}
	case "record", "value", "services", "verificationMethods", "takedown", "deactivated", "plcOp", "operation":
		return m{"text": text}
	case "subject":
		return m{"$type": "com.atproto.admin.defs#repoRef", "did": text}
	default:
		return text
	}
}

type attempt struct {
	what   string
	method string
	query  string
	kind   string // Content-Type
	body   []byte
}

// attempts are malformed calls of one method.
func attempts(t *testing.T, self string) (list []attempt) {
	t.Helper()
	post := func(what, kind string, body []byte) {
		list = append(list, attempt{what, http.MethodPost, "", kind, body})
	}
	const asJSON = "application/json"
	post("no body", "", nil)
	post("no body of JSON", asJSON, nil)
	post("another type", "text/plain", []byte("x"))
	post("a broken type", ";;;", []byte("{}"))
	post("a CAR that is none", "application/vnd.ipld.car", []byte("\x0a\xa1"))
	post("empty CAR", "application/vnd.ipld.car", nil)
	for _, raw := range []string{"null", "[]", `"x"`, "{}", "{", "{}{}", "\xff", `{"a":` + strings.Repeat("[", 20_000), strings.Repeat(" ", 10)} {
		post(fmt.Sprintf("body %.20q", raw), asJSON, []byte(raw))
	}
	for _, v := range odd {
		all := m{}
		for _, f := range fields {
			all[f] = v
		}
		own := m{"repo": self, "did": self, "collection": note, "rkey": v, "record": v, "writes": v, "password": password, "identifier": self, "account": self}
		texts := m{}
		for _, f := range fields {
			texts[f] = typed(f, v)
		}
		ownTexts := maps.Clone(texts)
		maps.Copy(ownTexts, m{"repo": self, "did": self, "collection": note, "account": self})
		for _, in := range []m{all, own, texts, ownTexts} {
			raw, err := json.Marshal(in)
			require.NoError(t, err)
			post(fmt.Sprintf("all fields %.20q", fmt.Sprint(v)), asJSON, raw)
		}
	}
	get := func(what, query string) {
		list = append(list, attempt{what: what, method: http.MethodGet, query: query})
	}
	get("no parameter", "")
	get("a broken query", "a=%zz&;")
	for _, v := range odd {
		text, ok := v.(string)
		if !ok {
			text = fmt.Sprint(v)
		}
		all, own := url.Values{}, url.Values{"repo": {self}, "did": {self}, "collection": {note}}
		for _, f := range fields {
			if len(text) < 1000 || f == "cursor" || f == "rkey" { // all of them long are no line of HTTP any more
				all.Set(f, text)
				if !own.Has(f) {
					own.Set(f, text)
				}
			}
		}
		get(fmt.Sprintf("all parameters %.20q", text), all.Encode())
		get(fmt.Sprintf("its own repository and %.20q", text), own.Encode())
	}
	get("twice", "did=a&did=a&repo=a&repo=a&handle=a&handle=a&aud=a&aud=a&limit=1&limit=2")
	get("no text", "did=%ff&repo=%ff&handle=%ff&cursor=%ff&cid=%ff&aud=%ff")
	return list
}

// The reference answers several of these 500. Whatever a client sends, to whichever method and as whoever, is answered as the client's error
// and by a name, or done.
func TestMalformedInputIsTheClientsErrorByName(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.InviteRequired = false })
	b.withMail()
	methods, _ := b.server.Load().handler.(*xrpc.Mux).Served()
	others := []string{"", "Basic YWRtaW46YWRtaW4tcGFzc3dvcmQ=", "Bearer nonsense"}
	for i, nsid := range methods {
		u := b.account(fmt.Sprintf("user%d", i)).withAddress(fmt.Sprintf("user%d@example.org", i))
		taken := http.MethodPost
		if b.get("", nsid).Status != http.StatusMethodNotAllowed {
			taken = http.MethodGet
		}
		for n, try := range attempts(t, u.DID.String()) {
			if try.method != taken {
				continue
			}
			for _, auth := range []string{"Bearer " + u.Access, others[n%len(others)]} {
				req, err := http.NewRequest(try.method, b.url+"/xrpc/"+nsid+"?"+try.query, bytes.NewReader(try.body))
				require.NoError(t, err)
				req.Header.Set("Content-Type", try.kind)
				req.Header.Set("Authorization", auth)
				a := b.do(req)
				if a.Status >= 500 || a.Status >= 400 && a.name() == "" {
					t.Errorf("%s, %s, as %.6s: %d %.300s", nsid, try.what, auth, a.Status, a.Raw)
				}
			}
		}
	}
}

// tokenOnly calls a method with a token and nothing else.
func (b *bed) tokenOnly(nsid, token string) answer {
	b.t.Helper()
	a := b.get(token, nsid)
	if a.Status == http.StatusMethodNotAllowed {
		a = b.post(token, nsid, m{})
	}
	return a
}

func TestExpiredTokenIsCalledThatByEveryMethodThatAsksForOne(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	methods, _ := b.server.Load().handler.(*xrpc.Mux).Served()
	asking := 0
	b.clock.Advance(b.server.Load().cfg.AccessTTL + time.Minute)
	for _, nsid := range methods {
		if nsid == "com.atproto.server.refreshSession" || nsid == "com.atproto.server.deleteSession" {
			continue // they take the other token
		}
		if b.tokenOnly(nsid, "").name() != "AuthMissing" {
			continue
		}
		asking++
		assert.Equal(t, "ExpiredToken", b.tokenOnly(nsid, u.Access).name(), nsid)
		bad := b.tokenOnly(nsid, "nonsense")
		assert.Equal(t, http.StatusUnauthorized, bad.Status, nsid)
	}
	assert.Greater(t, asking, 20)
}

func TestForeignRepositoryIsForbiddenByName(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	for _, repo := range []string{other.DID.String(), other.Handle, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "nobody.test"} {
		for nsid, in := range map[string]m{
			"com.atproto.repo.createRecord": {"collection": note, "record": m{"text": "x"}},
			"com.atproto.repo.putRecord":    {"collection": note, "rkey": "a", "record": m{"text": "x"}},
			"com.atproto.repo.deleteRecord": {"collection": note, "rkey": "a"},
			"com.atproto.repo.applyWrites":  {"writes": []any{m{"$type": applyWritesNSID + "#delete", "collection": note, "rkey": "a"}}},
		} {
			in["repo"] = repo
			a := b.post(u.Access, nsid, in)
			assert.Equal(t, http.StatusForbidden, a.Status, "%s %s: %s", nsid, repo, a.Raw)
			assert.Equal(t, "Forbidden", a.name(), "%s %s", nsid, repo)
		}
	}
}
