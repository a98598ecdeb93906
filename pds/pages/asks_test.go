package pages

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// Whatever a scope can say has words in both languages: no key of ours is ever shown in their place.
func TestEveryPermissionHasWords(t *testing.T) {
	t.Parallel()
	words := []string{
		"repo:*", "repo:com.example.note", "rpc:com.example.ask?aud=*", "rpc:*?aud=did:web:a.example%23svc", "blob:*/*", "blob:image/*", "blob:video/mp4",
		"account:email", "account:email?action=manage", "account:repo", "account:repo?action=manage", "account:status", "account:status?action=manage",
		"identity:handle", "identity:*", "transition:generic", "transition:email", "transition:chat.bsky",
	}
	for _, actions := range []string{"create", "update", "delete", "create&action=update", "create&action=delete", "update&action=delete"} {
		words = append(words, "repo:com.example.note?action="+actions)
	}
	for _, nsid := range lexicons.PermissionSets() {
		words = append(words, "include:"+nsid+"?aud=did:web:a.example%23svc")
	}
	require.Greater(t, len(words), 25)
	for _, word := range words {
		set, err := scope.Parse(word, lexicons.PermissionSetOf)
		require.NoError(t, err, word)
		for _, lang := range []string{"en", "es"} {
			asks := Asks(lang, set)
			require.Len(t, asks, 1, word)
			for _, line := range asks[0].Lines {
				require.NotEmpty(t, line.Lead, word)
				assert.NotContains(t, line.Lead, "ask.", word)
				for _, i := range line.Items {
					assert.NotEqual(t, i.Words == "", i.Code == "", "%s: either words or a code", word)
					assert.False(t, strings.HasPrefix(i.Code, "org.city-sync."), "%s shows %s by its code", word, i.Code)
				}
			}
		}
	}
}

func TestEveryCollectionOfTheCityHasWords(t *testing.T) {
	t.Parallel()
	for _, nsid := range lexicons.PermissionSets() {
		set, ok := lexicons.PermissionSetOf(nsid)
		require.True(t, ok)
		for _, lang := range []string{"en", "es"} {
			assert.NotEmpty(t, set.Title[lang], "%s in %s", nsid, lang)
			assert.NotEmpty(t, set.Detail[lang], "%s in %s", nsid, lang)
		}
		for _, p := range set.Permissions {
			for _, name := range append(p.Collection, p.LXM...) {
				assert.True(t, Has("nsid."+name), "%s of %s", name, nsid)
			}
		}
	}
}
