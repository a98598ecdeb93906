package pages

import (
	"fmt"
	"net/http"
	"strings"
)

const languageCookie = "lang"

// Language is the page's language: ?lang=, then the reader's last choice, then the browser's wish, then English.
func Language(r *http.Request) string {
	if l := r.URL.Query().Get("lang"); known(l) {
		return l
	}
	if c, err := r.Cookie(languageCookie); err == nil && known(c.Value) {
		return c.Value
	}
	for wish := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(wish), ";")
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if known(primary) {
			return primary
		}
	}
	return "en"
}

// Remember keeps a choice made by ?lang=.
func Remember(w http.ResponseWriter, r *http.Request) {
	if l := r.URL.Query().Get("lang"); known(l) {
		http.SetCookie(w, &http.Cookie{Name: languageCookie, Value: l, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
}

func known(lang string) bool { return lang == "en" || lang == "es" }

// words are one phrase in both languages.
type words struct{ en, es string }

// phrase gives the words for key. A missing phrase shows its key, and a test finds it.
func phrase(lang, key string) string {
	p, ok := lookUp(key)
	switch {
	case !ok:
		return key
	case lang == "es":
		return p.es
	}
	return p.en
}

// Phrase gives the words for key.
func Phrase(lang, key string) string { return phrase(lang, key) }

// F gives a phrase with its figures or names in place.
func F(lang, key string, a ...any) string { return fmt.Sprintf(phrase(lang, key), a...) }

func lookUp(key string) (words, bool) {
	for _, some := range []map[string]words{phrases, accountPhrases, consentPhrases, adminPhrases} {
		if p, ok := some[key]; ok {
			return p, true
		}
	}
	return words{}, false
}
