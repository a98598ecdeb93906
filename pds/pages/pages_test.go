package pages

import (
	"io/fs"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// used are the phrases that templates name; those that a word completes are looked for by their beginning elsewhere.
var used = regexp.MustCompile(`\.(?:T|F) "([A-Za-z.]+)"`)

func TestEveryPhraseOfATemplateIsThereInBothLanguages(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(templates, "templates/*.html")
	require.NoError(t, err)
	seen := 0
	for _, file := range files {
		raw, err := fs.ReadFile(templates, file)
		require.NoError(t, err)
		for _, m := range used.FindAllStringSubmatch(string(raw), -1) {
			seen++
			assert.True(t, Has(m[1]), "%s says %q", file, m[1])
		}
	}
	require.Greater(t, seen, 30)
	for _, some := range []map[string]words{phrases, accountPhrases, consentPhrases} {
		for key, w := range some {
			assert.NotEmpty(t, w.en, key)
			assert.NotEmpty(t, w.es, key)
			verbs := regexp.MustCompile(`%[sd]`)
			assert.Equal(t, verbs.FindAllString(w.en, -1), verbs.FindAllString(w.es, -1), "figures of %s", key)
		}
	}
}

func TestNoPhraseStandsTwice(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, some := range []map[string]words{phrases, accountPhrases, consentPhrases} {
		for key := range some {
			assert.False(t, seen[key], key)
			seen[key] = true
		}
	}
}

func TestWordsOfStrangersAreEscaped(t *testing.T) {
	t.Parallel()
	p, err := New("pds.test")
	require.NoError(t, err)
	w := httptest.NewRecorder()
	require.NoError(t, p.Render(w, Answer{Lang: "en", Self: "/x?\"><script>", Status: 200, View: SignIn{Identifier: `"><script>alert(1)</script>`}}))
	assert.NotContains(t, w.Body.String(), "<script>")
}
