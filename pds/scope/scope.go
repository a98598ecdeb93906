// Package scope reads the permissions of the AT Protocol as they stand in OAuth scopes,
// and answers what they allow: writes to collections, uploads, calls of other services,
// and parts of the account itself.
//
// Invariants:
//
//	S1  What is not named is not allowed. A word that is not understood is refused, never
//	    skipped: who asks for it must learn that it was not granted.
//	S2  a.Within(b) allows nothing that a or b does not allow.
//	S3  String gives back a text that Parse reads to a Set of the same meaning, and equal
//	    Sets of words give equal texts.
//	S4  A permission set gives only what its own namespace holds, whatever it lists.
package scope

import (
	"fmt"
	"slices"
	"strings"

	"city-sync.org/citysync/lexicons"
)

// Limits on what a stranger may ask for at once.
const (
	maxLength = 16 << 10
	maxTerms  = 200
)

// Base is the word that every session of an account asks for. It allows nothing by itself.
const Base = "atproto"

// The words from before permissions were granular. What they allow is as wide as a password's.
const (
	TransitionGeneric = "transition:generic"
	TransitionEmail   = "transition:email"
	TransitionChat    = "transition:chat.bsky"
)

// Resolver finds a permission set by its NSID.
type Resolver func(nsid string) (lexicons.PermissionSet, bool)

// InvalidError is a word of a scope that is refused. It is final.
type InvalidError struct {
	Word   string
	Reason string
}

func (e *InvalidError) Error() string { return fmt.Sprintf("scope %.200q: %s", e.Word, e.Reason) }

// Set is what was granted. The zero Set allows nothing. A Set never changes once made.
type Set struct {
	terms []term
}

// term is one word of a scope: a permission, or a name for several.
type term struct {
	text        string // in canonical form
	permissions []Permission
	from        *Included // of include:
}

// Included names the permission set that brought a permission in.
type Included struct {
	Set lexicons.PermissionSet
	Aud string // the service of include:…?aud=, or empty
}

// Parse reads a scope: words with a space between them.
func Parse(s string, sets Resolver) (*Set, error) {
	if len(s) > maxLength {
		return nil, &InvalidError{Word: s, Reason: fmt.Sprintf("longer than %d bytes", maxLength)}
	}
	words := strings.Fields(s)
	if len(words) > maxTerms {
		return nil, &InvalidError{Word: s, Reason: fmt.Sprintf("more than %d words", maxTerms)}
	}
	out := &Set{}
	for _, w := range words {
		t, err := parseTerm(w, sets)
		if err != nil {
			return nil, err
		}
		out.add(t)
	}
	out.order()
	return out, nil
}

func parseTerm(word string, sets Resolver) (term, error) {
	switch word {
	case Base:
		return term{text: Base}, nil
	case TransitionGeneric:
		return term{text: word, permissions: []Permission{
			{Kind: KindRepo, Collections: []string{any1}, Actions: everyAction},
			{Kind: KindBlob, Accept: []string{anyMime}},
			{Kind: KindRPC, Methods: []string{any1}, Aud: any1, span: allButChat},
		}}, nil
	case TransitionChat:
		return term{text: word, permissions: []Permission{{Kind: KindRPC, Methods: []string{any1}, Aud: any1, span: chatOnly}}}, nil
	case TransitionEmail:
		return term{text: word, permissions: []Permission{{Kind: KindAccount, Attr: "email", Actions: []Action{Read}}}}, nil
	}
	syn, err := parseSyntax(word)
	if err != nil {
		return term{}, &InvalidError{Word: word, Reason: err.Error()}
	}
	if syn.resource == "include" {
		t, err := include(syn, sets)
		if err != nil {
			return term{}, &InvalidError{Word: word, Reason: err.Error()}
		}
		return t, nil
	}
	p, err := permissionOf(syn)
	if err != nil {
		return term{}, &InvalidError{Word: word, Reason: err.Error()}
	}
	return term{text: p.String(), permissions: []Permission{p}}, nil
}

func (s *Set) add(t term) {
	if !slices.ContainsFunc(s.terms, func(o term) bool { return o.text == t.text }) {
		s.terms = append(s.terms, t)
	}
}

func (s *Set) order() {
	slices.SortStableFunc(s.terms, func(a, b term) int { return strings.Compare(a.text, b.text) })
}

// String is the canonical scope. Permission sets stand in it by name.
func (s *Set) String() string {
	words := make([]string, len(s.terms))
	for i, t := range s.terms {
		words[i] = t.text
	}
	return strings.Join(words, " ")
}

// Has tells whether the scope holds a word, in canonical form.
func (s *Set) Has(word string) bool {
	return slices.ContainsFunc(s.terms, func(t term) bool { return t.text == word })
}

// Empty tells whether nothing is allowed.
func (s *Set) Empty() bool { return len(s.Grants()) == 0 }

// Transition lists the words from before permissions were granular.
func (s *Set) Transition() []string {
	var out []string
	for _, t := range s.terms {
		if strings.HasPrefix(t.text, "transition:") {
			out = append(out, t.text)
		}
	}
	return out
}

// Grant is one permission as a person is asked for it.
type Grant struct {
	Permission
	Word string    // the word of the scope that brought it
	From *Included // the permission set, when it came from one
}

// Grants lists every permission of the set, those of a permission set one by one.
func (s *Set) Grants() []Grant {
	var out []Grant
	for _, t := range s.terms {
		for _, p := range t.permissions {
			out = append(out, Grant{Permission: p, Word: t.text, From: t.from})
		}
	}
	return out
}

func (s *Set) allows(p Permission) bool {
	return slices.ContainsFunc(s.terms, func(t term) bool {
		return slices.ContainsFunc(t.permissions, func(have Permission) bool { return have.covers(p) })
	})
}

// Repo tells whether records of the collection may be created, updated or deleted.
func (s *Set) Repo(collection string, a Action) bool { return s.allows(RepoOf(collection, a)) }

// Blob tells whether a file of the MIME type may be uploaded.
func (s *Set) Blob(mime string) bool {
	return isMime(mime) && !strings.Contains(mime, any1) && s.allows(BlobOf(mime))
}

// RPC tells whether the method of the service may be called in the account's name.
// The method "*" asks for all of the service's methods.
func (s *Set) RPC(lxm, aud string) bool {
	return s.allows(RPCOf(lxm, aud)) || lxm == any1 && s.Has(TransitionGeneric) && s.Has(TransitionChat)
}

// Account tells whether a part of the account (email, repo, status) may be read or managed.
func (s *Set) Account(attr string, a Action) bool { return s.allows(AccountOf(attr, a)) }

// Identity tells whether the handle, or with "*" the whole identity, may be changed.
func (s *Set) Identity(attr string) bool { return s.allows(IdentityOf(attr)) }

// Within is what both sets allow (S2). Words that other allows whole keep their form, a
// permission set its name; of the rest only the part in common is left.
func (s *Set) Within(other *Set) *Set {
	out := &Set{}
	for _, t := range s.terms {
		if other.allowsAll(t) {
			out.add(t)
			continue
		}
		for _, p := range t.permissions {
			for _, g := range other.Grants() {
				if common, ok := p.meet(g.Permission); ok {
					out.add(term{text: common.String(), permissions: []Permission{common}, from: t.from})
				}
			}
		}
	}
	out.order()
	return out
}

// allowsAll errs on the side of no: a permission that only several together cover is
// then taken apart, which gives the same.
func (s *Set) allowsAll(t term) bool {
	for _, p := range t.permissions {
		if !s.allows(p) {
			return false
		}
	}
	return true
}

// MarshalText gives the scope as String does.
func (s *Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
