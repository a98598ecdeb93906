package scope

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// A word has the form resource[:positional][?name=value&…].

type wordSyntax struct {
	resource   string
	positional string
	hasPos     bool
	params     url.Values
}

func parseSyntax(word string) (wordSyntax, error) {
	head, query, _ := strings.Cut(word, "?")
	resource, pos, hasPos := strings.Cut(head, ":")
	s := wordSyntax{resource: resource, hasPos: hasPos}
	var err error
	if s.positional, err = url.PathUnescape(pos); err != nil {
		return s, errors.New("a percent sign without two digits")
	}
	if s.params, err = url.ParseQuery(query); err != nil {
		return s, errors.New("the parameters are malformed")
	}
	return s, nil
}

// only refuses parameters that the resource does not have.
func (s wordSyntax) only(names ...string) error {
	for name := range s.params {
		found := false
		for _, n := range names {
			found = found || n == name
		}
		if !found {
			return fmt.Errorf("%s has no parameter %q", s.resource, name)
		}
	}
	return nil
}

// many reads a parameter that may stand before the question mark, or several times after it.
func (s wordSyntax) many(name string, positional bool) ([]string, error) {
	values, named := s.params[name]
	if positional && s.hasPos {
		if named {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		return []string{s.positional}, nil
	}
	return values, nil
}

// one reads a parameter that stands once at most.
func (s wordSyntax) one(name string, positional bool) (string, error) {
	values, err := s.many(name, positional)
	switch {
	case err != nil:
		return "", err
	case len(values) > 1:
		return "", fmt.Errorf("%s is given twice", name)
	case len(values) == 0:
		return "", nil
	case values[0] == "":
		return "", fmt.Errorf("%s is empty", name)
	}
	return values[0], nil
}

// write is the form that parseSyntax reads. names and values are in the order of writing.
func (s *writer) write() string {
	out := s.resource
	if s.positional != "" {
		out += ":" + escape(s.positional, true)
	}
	for i, p := range s.params {
		sep := "&"
		if i == 0 {
			sep = "?"
		}
		out += sep + p[0] + "=" + escape(p[1], false)
	}
	return out
}

type writer struct {
	resource   string
	positional string
	params     [][2]string
}

// list puts one value before the question mark and several after it.
func (s *writer) list(name string, values []string) {
	if len(values) == 1 {
		s.positional = values[0]
		return
	}
	s.add(name, values...)
}

func (s *writer) add(name string, values ...string) {
	for _, v := range values {
		s.params = append(s.params, [2]string{name, v})
	}
}

const hexDigits = "0123456789ABCDEF"

// escape leaves what is readable in a scope as it is. A plus means a space among parameters.
func escape(v string, plus bool) string {
	var b strings.Builder
	for i := range len(v) {
		c := v[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.*:/,@", c) >= 0, plus && c == '+':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// checkService wants a service of somebody: a DID of a method the network resolves, and the
// name of a service in its document.
func checkService(aud string) error {
	raw, service, ok := strings.Cut(aud, "#")
	did, err := syntax.ParseDID(raw)
	if !ok || err != nil || did.Method() != "plc" && did.Method() != "web" || !isFragment(service) {
		return fmt.Errorf("aud %.200q is not DID#service", aud)
	}
	return nil
}

func isFragment(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~:@", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

// isMime takes a type of a file or a pattern for several.
func isMime(v string) bool {
	kind, sub, ok := strings.Cut(v, "/")
	return ok && isToken(kind) && isToken(sub)
}

// isToken holds to RFC 9110, in which a star is a letter like others.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != "" && len(s) <= 127
}
