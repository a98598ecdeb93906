package scope

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// include takes a permission set apart. What of it does not hold here is left out without a
// word, as everywhere on the network: an entry with one name outside the set's namespace, and
// an entry that inherits the audience where none was given. So a set is checked when it is
// written, by the tests of package lexicons.
func include(s wordSyntax, sets Resolver) (term, error) {
	if err := s.only("nsid", "aud"); err != nil {
		return term{}, err
	}
	nsid, err := s.one("nsid", true)
	if err != nil {
		return term{}, err
	}
	if _, err := syntax.ParseNSID(nsid); err != nil {
		return term{}, fmt.Errorf("%.200q is not an NSID", nsid)
	}
	aud, err := s.one("aud", false)
	if err != nil {
		return term{}, err
	}
	if aud != "" {
		if err := checkService(aud); err != nil {
			return term{}, err
		}
	}
	if sets == nil {
		return term{}, errors.New("no permission sets are known here")
	}
	set, ok := sets(nsid)
	if !ok {
		return term{}, fmt.Errorf("the permission set %s is not known here", nsid)
	}
	w := writer{resource: s.resource, positional: nsid}
	if aud != "" {
		w.add("aud", aud)
	}
	t := term{text: w.write(), from: &Included{Set: set, Aud: aud}}
	for _, entry := range set.Permissions {
		if p, ok := expand(nsid, aud, entry); ok {
			t.permissions = append(t.permissions, p)
		}
	}
	return t, nil
}

func expand(set, aud string, entry lexicon.SchemaPermission) (Permission, bool) {
	var p Permission
	var err error
	switch Kind(entry.Resource) {
	case KindRepo:
		p, err = makeRepo(entry.Collection, entry.Action, nil)
	case KindRPC:
		switch {
		case entry.Audience == any1 && !entry.InheritAud:
			p, err = makeRPC(entry.LXM, any1, nil)
		case entry.Audience == "" && entry.InheritAud && aud != "":
			p, err = makeRPC(entry.LXM, aud, nil)
		default:
			return Permission{}, false
		}
	default:
		return Permission{}, false
	}
	if err != nil {
		return Permission{}, false
	}
	group := set[:strings.LastIndexByte(set, '.')+1]
	for _, name := range append(p.Collections, p.Methods...) {
		if !strings.HasPrefix(name, group) { // a star is outside, too
			return Permission{}, false
		}
	}
	return p, true
}
