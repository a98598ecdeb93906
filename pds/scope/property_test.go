package scope

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	collections = []string{"com.a.one", "com.a.two", "com.b.one", "chat.bsky.one", "com.example.calendar.event"}
	auds        = []string{"did:web:a.example.com#one", "did:web:b.example.com#two"}
	mimes       = []string{"image/png", "image/jpeg", "application/pdf"}
)

// scopes draws words that overlap often.
func scopes() *rapid.Generator[string] {
	some := func(t *rapid.T, name string, of []string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, 3, rapid.ID[string]).Draw(t, name)
	}
	params := func(name string, values []string) string {
		return name + "=" + strings.Join(values, "&"+name+"=")
	}
	word := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return "repo?" + params("collection", some(t, "collections", append(collections, "*"))) + "&" +
				params("action", some(t, "actions", []string{"create", "update", "delete"}))
		case 1:
			return "rpc?" + params("lxm", some(t, "methods", collections)) + "&aud=" +
				rapid.SampledFrom([]string{"*", strings.Replace(auds[0], "#", "%23", 1)}).Draw(t, "aud")
		case 2:
			return "rpc?lxm=*&aud=" + strings.Replace(rapid.SampledFrom(auds).Draw(t, "aud"), "#", "%23", 1)
		case 3:
			return "blob?" + params("accept", some(t, "accept", append(mimes, "image/*", "*/*")))
		case 4:
			return "account:" + rapid.SampledFrom(accountAttrs).Draw(t, "attr") + "?" + params("action", some(t, "actions", []string{"read", "manage"}))
		case 5:
			return rapid.SampledFrom([]string{"identity:*", "identity:handle", "atproto"}).Draw(t, "word")
		default:
			return rapid.SampledFrom([]string{
				TransitionGeneric, TransitionChat, TransitionEmail,
				"include:com.example.calendar.authFull", "include:com.example.calendar.authFull?aud=did:web:a.example.com%23one",
			}).Draw(t, "word")
		}
	})
	return rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(word, 0, 4).Draw(t, "words"), " ") })
}

// everyQuestion asks a set all there is to ask in the world of these tests.
func everyQuestion(s *Set) map[string]bool {
	out := map[string]bool{}
	for _, c := range append(collections, "com.c.never", "*") {
		for _, a := range everyAction {
			out[string(a)+" "+c] = s.Repo(c, a)
		}
		for _, aud := range append(auds, "did:web:never.example.com#x") {
			out["call "+c+" at "+aud] = s.RPC(c, aud)
		}
	}
	for _, m := range append(mimes, "text/plain") {
		out["upload "+m] = s.Blob(m)
	}
	for _, attr := range accountAttrs {
		for _, a := range []Action{Read, Manage} {
			out[string(a)+" "+attr] = s.Account(attr, a)
		}
	}
	for _, attr := range identityAttr {
		out["identity "+attr] = s.Identity(attr)
	}
	return out
}

// What both allow is what Within allows: never more (S2), and less only where a transition
// word meets every method of a service, which no permission can say.
func TestWithinAllowsWhatBothAllow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, other := scopes().Draw(t, "a"), scopes().Draw(t, "b")
		a, err := Parse(text, examples)
		require.NoError(t, err)
		b, err := Parse(other, examples)
		require.NoError(t, err)
		both := a.Within(b)
		inA, inB := everyQuestion(a), everyQuestion(b)
		exact := !strings.Contains(text+other, "transition:")
		for q, allowed := range everyQuestion(both) {
			if allowed || exact {
				assert.Equal(t, inA[q] && inB[q], allowed, "%s: %s within %s is %s", q, a, b, both)
			}
		}
		again, err := Parse(both.String(), examples) // S3
		require.NoError(t, err)
		assert.Equal(t, everyQuestion(both), everyQuestion(again))
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"atproto transition:generic", "repo:com.example.foo?action=create", "rpc?lxm=com.a.b&lxm=com.a.c&aud=*",
		"blob?accept=image/svg%2Bxml&accept=*/*", "include:com.example.calendar.authFull?aud=did:web:a.example.com%23x",
		"account?attr=email&action=manage", "identity:%2A", "repo:%", "rpc:*?aud=did:web:a.example.com:b%23x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, err := Parse(s, examples)
		if err != nil {
			return
		}
		again, err := Parse(set.String(), examples)
		require.NoError(t, err, "%q", set)
		require.Equal(t, set.String(), again.String()) // S3
		require.Equal(t, everyQuestion(set), everyQuestion(again))
		require.Equal(t, set.String(), set.Within(set).String())
	})
}
