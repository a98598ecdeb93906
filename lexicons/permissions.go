package lexicons

import (
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/lexicon"
)

// PermissionSet is a bundle of permissions under one name, which an app asks for as a whole.
type PermissionSet struct {
	NSID        string
	Title       map[string]string // by language
	Detail      map[string]string
	Permissions []lexicon.SchemaPermission
}

// PermissionSets lists the NSIDs of all permission sets of ours, sorted.
func PermissionSets() []string { return names(compiled().sets) }

// PermissionSetOf finds a permission set that is compiled in. It must not be changed.
func PermissionSetOf(nsid string) (PermissionSet, bool) {
	set, ok := compiled().sets[nsid]
	return set, ok
}

// wordsIn is the language of the main text of a schema.
const wordsIn = "en"

func newPermissionSet(nsid string, s lexicon.SchemaPermissionSet) PermissionSet {
	texts := func(main *string, others map[string]string) map[string]string {
		out := map[string]string{}
		for lang, text := range others {
			out[lang] = text
		}
		if main != nil {
			out[wordsIn] = *main
		}
		return out
	}
	return PermissionSet{
		NSID: nsid, Title: texts(s.Title, s.TitleLang), Detail: texts(s.Detail, s.DetailLang),
		Permissions: slices.Clone(s.Permissions),
	}
}

// In picks the text in a language: "es-MX" takes "es", and what is missing is English.
func In(lang string, texts map[string]string) string {
	for lang != "" {
		if t, ok := texts[lang]; ok {
			return t
		}
		i := strings.LastIndexByte(lang, '-')
		lang = lang[:max(i, 0)]
	}
	return texts[wordsIn]
}
