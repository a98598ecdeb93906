package scope

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Kind is the resource that a permission is about.
type Kind string

// The kinds of the protocol.
const (
	KindRepo     Kind = "repo"
	KindRPC      Kind = "rpc"
	KindBlob     Kind = "blob"
	KindAccount  Kind = "account"
	KindIdentity Kind = "identity"
)

// Action is what is done to a record, or to a part of the account.
type Action string

// The actions of repo, and those of account: who may manage may read.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
	Read   Action = "read"
	Manage Action = "manage"
)

var (
	everyAction  = []Action{Create, Update, Delete}
	accountAttrs = []string{"email", "repo", "status"}
	identityAttr = []string{"handle", any1}
)

const (
	any1    = "*"
	anyMime = "*/*"
)

// Permission allows something with one kind of resource. The fields of other kinds are empty.
type Permission struct {
	Kind        Kind
	Collections []string // repo: NSIDs, or "*"
	Actions     []Action // repo, account
	Methods     []string // rpc: NSIDs, or "*"
	Aud         string   // rpc: DID#service, or "*"
	Accept      []string // blob: MIME types, "image/*", "*/*"
	Attr        string   // account, identity

	span span // rpc, of transition words alone
}

// span cuts the methods of a transition word, which no permission can say.
type span int

const (
	everything span = iota
	allButChat
	chatOnly
)

func (s span) holds(lxm string) bool {
	chat := strings.HasPrefix(lxm, "chat.bsky.")
	return s == everything || lxm != any1 && chat == (s == chatOnly)
}

// RepoOf is the permission for one action on one collection.
func RepoOf(collection string, a Action) Permission {
	return Permission{Kind: KindRepo, Collections: []string{collection}, Actions: []Action{a}}
}

// RPCOf is the permission to call one method of a service.
func RPCOf(lxm, aud string) Permission {
	return Permission{Kind: KindRPC, Methods: []string{lxm}, Aud: aud}
}

// BlobOf is the permission to upload files of one MIME type.
func BlobOf(mime string) Permission {
	return Permission{Kind: KindBlob, Accept: []string{strings.ToLower(mime)}}
}

// AccountOf is the permission for one part of the account.
func AccountOf(attr string, a Action) Permission {
	return Permission{Kind: KindAccount, Attr: attr, Actions: []Action{a}}
}

// IdentityOf is the permission for one part of the identity.
func IdentityOf(attr string) Permission {
	return Permission{Kind: KindIdentity, Attr: attr}
}

func permissionOf(s wordSyntax) (Permission, error) {
	switch Kind(s.resource) {
	case KindRepo:
		collections, err := s.many("collection", true)
		if err != nil {
			return Permission{}, err
		}
		actions := s.params["action"]
		if s.params.Has("action") && len(actions) == 0 {
			return Permission{}, errors.New("no action")
		}
		return makeRepo(collections, actions, s.only("collection", "action"))
	case KindRPC:
		methods, err := s.many("lxm", true)
		if err != nil {
			return Permission{}, err
		}
		aud, err := s.one("aud", false)
		if err != nil {
			return Permission{}, err
		}
		return makeRPC(methods, aud, s.only("lxm", "aud"))
	case KindBlob:
		accept, err := s.many("accept", true)
		if err != nil {
			return Permission{}, err
		}
		return makeBlob(accept, s.only("accept"))
	case KindAccount:
		attr, err := s.one("attr", true)
		if err != nil {
			return Permission{}, err
		}
		if !slices.Contains(accountAttrs, attr) {
			return Permission{}, fmt.Errorf("an account has no part %q", attr)
		}
		return makeAccount(attr, s.params["action"], s.only("attr", "action"))
	case KindIdentity:
		attr, err := s.one("attr", true)
		if err != nil {
			return Permission{}, err
		}
		if !slices.Contains(identityAttr, attr) {
			return Permission{}, fmt.Errorf("an identity has no part %q", attr)
		}
		return IdentityOf(attr), s.only("attr")
	}
	return Permission{}, errors.New("not a permission that this server knows")
}

// nsids wants NSIDs or one star, and gives them sorted.
func nsids(name string, values []string) ([]string, error) {
	if len(values) == 0 {
		return nil, fmt.Errorf("no %s", name)
	}
	for _, v := range values {
		if v == any1 {
			continue
		}
		if _, err := syntax.ParseNSID(v); err != nil {
			return nil, fmt.Errorf("%s %.200q is not an NSID", name, v)
		}
	}
	if slices.Contains(values, any1) {
		return []string{any1}, nil
	}
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values), nil
}

func makeRepo(collections, actions []string, err error) (Permission, error) {
	if err != nil {
		return Permission{}, err
	}
	p := Permission{Kind: KindRepo}
	if p.Collections, err = nsids("collection", collections); err != nil {
		return Permission{}, err
	}
	for _, a := range actions {
		if !slices.Contains(everyAction, Action(a)) {
			return Permission{}, fmt.Errorf("%.50q is no action on records", a)
		}
	}
	for _, a := range everyAction {
		if len(actions) == 0 || slices.Contains(actions, string(a)) {
			p.Actions = append(p.Actions, a)
		}
	}
	return p, nil
}

func makeRPC(methods []string, aud string, err error) (Permission, error) {
	if err != nil {
		return Permission{}, err
	}
	p := Permission{Kind: KindRPC, Aud: aud}
	if p.Methods, err = nsids("lxm", methods); err != nil {
		return Permission{}, err
	}
	if aud != any1 {
		return p, checkService(aud)
	}
	if p.Methods[0] == any1 {
		return Permission{}, errors.New("every method of every service is too much")
	}
	return p, nil
}

func makeBlob(accept []string, err error) (Permission, error) {
	if err != nil {
		return Permission{}, err
	}
	if len(accept) == 0 {
		return Permission{}, errors.New("no accept")
	}
	p := Permission{Kind: KindBlob}
	for _, a := range accept {
		kind, sub, _ := strings.Cut(a, "/")
		if !isMime(a) || strings.Contains(kind, any1) && a != anyMime || strings.Contains(sub, any1) && sub != any1 {
			return Permission{}, fmt.Errorf("accept %.200q is not a MIME type", a)
		}
		p.Accept = append(p.Accept, strings.ToLower(a))
	}
	p.Accept = slices.DeleteFunc(slices.Clone(p.Accept), func(a string) bool {
		return slices.ContainsFunc(p.Accept, func(wide string) bool { return wide != a && mimeCovers(wide, a) })
	})
	slices.Sort(p.Accept)
	p.Accept = slices.Compact(p.Accept)
	return p, nil
}

func makeAccount(attr string, actions []string, err error) (Permission, error) {
	if err != nil {
		return Permission{}, err
	}
	p := AccountOf(attr, Read)
	for _, a := range actions {
		switch Action(a) {
		case Read:
		case Manage:
			p.Actions[0] = Manage
		default:
			return Permission{}, fmt.Errorf("%.50q is no action on an account", a)
		}
	}
	return p, nil
}

// mimeCovers wants both in lower case.
func mimeCovers(pattern, mime string) bool {
	kind, ok := strings.CutSuffix(pattern, any1)
	return pattern == mime || pattern == anyMime || ok && strings.HasPrefix(mime, kind)
}

// covers tells whether p allows all of want.
func (p Permission) covers(want Permission) bool {
	if p.Kind != want.Kind {
		return false
	}
	switch p.Kind {
	case KindRepo:
		return within(want.Actions, p.Actions) && namesCover(p.Collections, want.Collections)
	case KindRPC:
		if p.span != everything {
			return p.span == want.span ||
				want.span == everything && !slices.ContainsFunc(want.Methods, func(m string) bool { return !p.span.holds(m) })
		}
		return (p.Aud == any1 || p.Aud == want.Aud) && namesCover(p.Methods, want.Methods)
	case KindBlob:
		return !slices.ContainsFunc(want.Accept, func(w string) bool {
			return !slices.ContainsFunc(p.Accept, func(have string) bool { return mimeCovers(have, w) })
		})
	case KindAccount:
		return p.Attr == want.Attr && (p.Actions[0] == Manage || want.Actions[0] == Read)
	case KindIdentity:
		return p.Attr == any1 || p.Attr == want.Attr
	}
	return false
}

func within[T comparable](some, all []T) bool {
	return !slices.ContainsFunc(some, func(v T) bool { return !slices.Contains(all, v) })
}

func namesCover(have, want []string) bool {
	return slices.Contains(have, any1) || within(want, have)
}

// meet is what both allow. What no permission can say is left out.
func (p Permission) meet(q Permission) (Permission, bool) {
	if p.Kind != q.Kind {
		return Permission{}, false
	}
	switch {
	case p.covers(q):
		return q, q.span == everything
	case q.covers(p):
		return p, p.span == everything
	}
	out := Permission{Kind: p.Kind}
	switch p.Kind {
	case KindRepo:
		out.Collections = common(p.Collections, q.Collections)
		out.Actions = slices.DeleteFunc(slices.Clone(p.Actions), func(a Action) bool { return !slices.Contains(q.Actions, a) })
		return out, len(out.Collections) > 0 && len(out.Actions) > 0
	case KindRPC:
		out.Methods = slices.DeleteFunc(common(p.Methods, q.Methods), func(m string) bool { return !p.span.holds(m) || !q.span.holds(m) })
		switch {
		case p.Aud == any1:
			out.Aud = q.Aud
		case q.Aud == any1 || p.Aud == q.Aud:
			out.Aud = p.Aud
		default:
			return Permission{}, false
		}
		return out, len(out.Methods) > 0 && !(out.Aud == any1 && out.Methods[0] == any1)
	case KindBlob:
		for _, a := range p.Accept {
			for _, b := range q.Accept {
				if mimeCovers(a, b) {
					out.Accept = append(out.Accept, b)
				} else if mimeCovers(b, a) {
					out.Accept = append(out.Accept, a)
				}
			}
		}
		slices.Sort(out.Accept)
		out.Accept = slices.Compact(out.Accept)
		return out, len(out.Accept) > 0
	}
	return Permission{}, false // account and identity: one covers the other, or nothing is in common
}

func common(a, b []string) []string {
	switch {
	case slices.Contains(a, any1):
		return slices.Clone(b)
	case slices.Contains(b, any1):
		return slices.Clone(a)
	}
	return slices.DeleteFunc(slices.Clone(a), func(v string) bool { return !slices.Contains(b, v) })
}

// String is the permission as a word of a scope.
func (p Permission) String() string {
	w := writer{resource: string(p.Kind)}
	switch p.Kind {
	case KindRepo:
		w.list("collection", p.Collections)
		if len(p.Actions) < len(everyAction) {
			w.addActions(p.Actions)
		}
	case KindRPC:
		w.list("lxm", p.Methods)
		w.add("aud", p.Aud)
	case KindBlob:
		w.list("accept", p.Accept)
	case KindAccount:
		w.positional = p.Attr
		if p.Actions[0] != Read {
			w.addActions(p.Actions)
		}
	case KindIdentity:
		w.positional = p.Attr
	}
	return w.write()
}

func (s *writer) addActions(actions []Action) {
	for _, a := range actions {
		s.add("action", string(a))
	}
}
