//go:build interop

package interop

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// question asks one scope one thing, in the words of the official package.
type question struct {
	Scope   string            `json:"scope"`
	Ask     string            `json:"ask"`
	With    map[string]string `json:"with"`
	Allowed bool              `json:"allowed"`
}

// The official package expands our permission sets to what our own code expands them to, and reads and
// answers scopes alike. It needs no city.
func TestOfficialScopesAgreeWithOurs(t *testing.T) {
	ws := install(t)
	const aud = "did:web:appview.example.com%23citysync_appview"
	var say struct {
		Sets    map[string][]string `json:"sets"`
		Words   map[string]string   `json:"words"`
		Answers []question          `json:"answers"`
	}
	say.Sets, say.Words = map[string][]string{}, map[string]string{}
	parse := func(s string) *scope.Set {
		set, err := scope.Parse(s, lexicons.PermissionSetOf)
		require.NoError(t, err)
		return set
	}
	for _, nsid := range lexicons.PermissionSets() {
		for _, include := range []string{"include:" + nsid, "include:" + nsid + "?aud=" + aud} {
			words := []string{}
			for _, g := range parse(include).Grants() {
				words = append(words, g.Permission.String())
			}
			say.Sets[include] = words
		}
	}
	scopes := []string{
		"atproto", "transition:generic", "transition:email", "transition:chat.bsky",
		"repo:*?action=delete", "repo?collection=com.example.foo&collection=com.example.bar&action=update&action=create",
		"rpc?lxm=com.example.foo&lxm=com.example.bar&aud=*", "rpc:*?aud=did:web:a.example.com%23one", "rpc:com.example.foo?aud=did:web:a.example.com#one",
		"blob?accept=image/*&accept=image/png&accept=text/plain", "blob:image/svg+xml", "blob:*/*",
		"account?attr=email&action=manage", "account:email", "account:repo?action=read", "account:status?action=manage", "identity?attr=*", "identity:handle",
	}
	for _, s := range scopes {
		set := parse(s)
		say.Words[s] = set.String()
		ask := func(name string, allowed bool, with ...string) {
			q := question{Scope: set.String(), Ask: name, With: map[string]string{}, Allowed: allowed}
			for i := 0; i < len(with); i += 2 {
				q.With[with[i]] = with[i+1]
			}
			say.Answers = append(say.Answers, q)
		}
		for _, name := range []string{"com.example.foo", "com.example.other", "chat.bsky.foo"} {
			for _, a := range []scope.Action{scope.Create, scope.Update, scope.Delete} {
				ask("allowsRepo", set.Repo(name, a), "collection", name, "action", string(a))
			}
			for _, aud := range []string{"did:web:a.example.com#one", "did:web:a.example.com", "did:web:b.example.com#one"} {
				ask("allowsRpc", set.RPC(name, aud), "lxm", name, "aud", aud)
			}
		}
		for _, mime := range []string{"image/png", "image/svg+xml", "text/plain", "text/html"} {
			ask("allowsBlob", set.Blob(mime), "mime", mime)
		}
		for _, attr := range []string{"email", "repo", "status"} {
			for _, a := range []scope.Action{scope.Read, scope.Manage} {
				ask("allowsAccount", set.Account(attr, a), "attr", attr, "action", string(a))
			}
		}
		for _, attr := range []string{"handle", "*"} {
			ask("allowsIdentity", set.Identity(attr), "attr", attr)
		}
	}
	in, err := json.Marshal(say)
	require.NoError(t, err)
	ws.run(t, in, "scopes.mjs", ws.lexicons)
}
