package pages

import (
	"slices"
	"strings"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// Ask is one thing that an application asks for: a word of its scope, which its owner may tick or not. A permission set is one thing with
// many lines behind it.
type Ask struct {
	Word   string // as it stands in the scope
	Title  string // of a permission set
	Detail string
	Grave  bool // its holder could take the account or do nearly everything in its name
	Lines  []AskLine
}

// AskLine is one permission: what may be done, and with what.
type AskLine struct {
	Lead  string
	Items []AskItem
}

// AskItem is a kind of record, a method or a kind of file. Code is what the protocol calls it, where that is no secret language of ours.
type AskItem struct{ Words, Code string }

// Asks puts a scope into plain words, what is grave first.
func Asks(lang string, set *scope.Set) []Ask {
	var out []Ask
	at := map[string]int{}
	for _, g := range set.Grants() {
		i, ok := at[g.Word]
		if !ok {
			i = len(out)
			at[g.Word] = i
			ask := Ask{Word: g.Word}
			if g.From != nil {
				ask.Title = lexicons.In(lang, g.From.Set.Title)
				ask.Detail = lexicons.In(lang, g.From.Set.Detail)
				if ask.Title == "" {
					ask.Title = g.From.Set.NSID
				}
			}
			out = append(out, ask)
		}
		out[i].Grave = out[i].Grave || grave(g)
		if line, ok := transition(lang, g.Word); ok {
			out[i].Lines = []AskLine{line}
			continue
		}
		out[i].Lines = append(out[i].Lines, askLine(lang, g.Permission))
	}
	slices.SortStableFunc(out, func(a, b Ask) int {
		switch {
		case a.Grave == b.Grave:
			return 0
		case a.Grave:
			return -1
		}
		return 1
	})
	return out
}

// grave tells what deserves a second look.
func grave(g scope.Grant) bool {
	switch g.Kind {
	case scope.KindIdentity:
		return true
	case scope.KindAccount:
		return slices.Contains(g.Actions, scope.Manage)
	case scope.KindRepo:
		return slices.Contains(g.Collections, "*")
	case scope.KindRPC:
		return slices.Contains(g.Methods, "*")
	}
	return false
}

// transition is a word from before permissions were granular. One sentence says all of it.
func transition(lang, word string) (AskLine, bool) {
	switch word {
	case scope.TransitionGeneric, scope.TransitionEmail, scope.TransitionChat:
		return AskLine{Lead: phrase(lang, "ask."+word)}, true
	}
	return AskLine{}, false
}

func askLine(lang string, p scope.Permission) AskLine {
	switch p.Kind {
	case scope.KindRepo:
		line := AskLine{Lead: phrase(lang, "ask.repo."+actions(p.Actions))}
		for _, c := range p.Collections {
			line.Items = append(line.Items, named(lang, "ask.allRecords", c))
		}
		return line
	case scope.KindRPC:
		line := AskLine{Lead: phrase(lang, "ask.rpcAny")}
		if p.Aud != "*" {
			line.Lead = F(lang, "ask.rpc", p.Aud)
		}
		for _, m := range p.Methods {
			line.Items = append(line.Items, named(lang, "ask.allMethods", m))
		}
		return line
	case scope.KindBlob:
		line := AskLine{Lead: phrase(lang, "ask.blob")}
		for _, mime := range p.Accept {
			line.Items = append(line.Items, mimeWords(lang, mime))
		}
		return line
	case scope.KindAccount:
		if slices.Contains(p.Actions, scope.Manage) {
			return AskLine{Lead: phrase(lang, "ask.account."+p.Attr+".manage")}
		}
		return AskLine{Lead: phrase(lang, "ask.account."+p.Attr+".read")}
	case scope.KindIdentity:
		if p.Attr == "*" {
			return AskLine{Lead: phrase(lang, "ask.identity")}
		}
		return AskLine{Lead: phrase(lang, "ask.identity.handle")}
	}
	return AskLine{Lead: p.String()} // a kind that has no words yet is shown as it was asked
}

// actions names the actions of records in one order, whatever theirs was: "create-update-delete".
func actions(list []scope.Action) string {
	var words []string
	for _, a := range []scope.Action{scope.Create, scope.Update, scope.Delete} {
		if slices.Contains(list, a) {
			words = append(words, string(a))
		}
	}
	return strings.Join(words, "-")
}

// named gives a collection or method of ours in the city's words, and every other by its own name.
func named(lang, all, nsid string) AskItem {
	if nsid == "*" {
		return AskItem{Words: phrase(lang, all)}
	}
	if Has("nsid." + nsid) {
		return AskItem{Words: phrase(lang, "nsid."+nsid)}
	}
	return AskItem{Code: nsid}
}

func mimeWords(lang, mime string) AskItem {
	if Has("mime." + mime) {
		return AskItem{Words: phrase(lang, "mime."+mime)}
	}
	return AskItem{Code: mime}
}
