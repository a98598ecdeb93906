package oauth

import (
	"crypto/ecdsa"
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxURL       = 2 << 10
	maxScope     = 8 << 10
	maxRedirects = 32 // redirect URIs of one client
	maxKeys      = 16 // keys of one client
	maxName      = 100
)

// ClientInfo is what an owner may be shown of a client. Name and the two addresses are what the client says of itself: where
// it is not trusted, only its id is sure.
type ClientInfo struct {
	ID           string
	Name         string
	URI          string
	LogoURI      string
	Confidential bool // proves with a key that it is who it says
	Trusted      bool // named by this server's operator
}

// client is a client whose metadata was read and found in order.
type client struct {
	ClientInfo
	redirects []string
	scope     []string // what it may ask for
	refreshes bool
	keys      map[string]clientKey // by key id; nil for a public client or where keysURI stands
	keysURI   string
}

type clientKey struct {
	pub *ecdsa.PublicKey
	jkt string
}

// document is client metadata (RFC 7591) as far as this server reads it.
type document struct {
	ClientID      string          `json:"client_id"`
	ClientName    string          `json:"client_name"`
	ClientURI     string          `json:"client_uri"`
	LogoURI       string          `json:"logo_uri"`
	RedirectURIs  []string        `json:"redirect_uris"`
	Scope         string          `json:"scope"`
	GrantTypes    []string        `json:"grant_types"`
	ResponseTypes []string        `json:"response_types"`
	Application   string          `json:"application_type"`
	AuthMethod    string          `json:"token_endpoint_auth_method"`
	AuthAlg       string          `json:"token_endpoint_auth_signing_alg"`
	JWKS          json.RawMessage `json:"jwks"`
	JWKSURI       string          `json:"jwks_uri"`
	DPoPBound     bool            `json:"dpop_bound_access_tokens"`
	SubjectType   string          `json:"subject_type"`
}

func badMetadata(format string, a ...any) *Error {
	return refuse(codeInvalidMetadata, format, a...)
}

// parseClientID tells a loopback client, whose id is its metadata, from one whose id is where its metadata stands.
func parseClientID(id string, allowLoopback bool) (loopback bool, at *url.URL, err error) {
	if len(id) > maxURL || !utf8.ValidString(id) {
		return false, nil, refuse(codeInvalidClient, "client_id is too long or not text")
	}
	if rest, ok := strings.CutPrefix(id, "http://localhost"); ok {
		if rest = strings.TrimPrefix(rest, "/"); rest == "" || rest[0] == '?' {
			return true, nil, nil
		}
	}
	u, perr := url.Parse(id)
	switch {
	case perr != nil || u.Host == "" || u.Opaque != "":
		return false, nil, refuse(codeInvalidClient, "client_id is not a URL")
	case u.User != nil || strings.Contains(id, "#"):
		return false, nil, refuse(codeInvalidClient, "client_id must have no user name and no fragment")
	case u.Path == "" || strings.HasSuffix(u.Path, "/") || u.EscapedPath() != u.JoinPath().EscapedPath():
		return false, nil, refuse(codeInvalidClient, "client_id must have a path, in its plainest form and without a final slash")
	case allowLoopback && isLoopbackHost(u.Hostname()) && (u.Scheme == "http" || u.Scheme == "https"):
		return false, u, nil
	case u.Scheme != "https":
		return false, nil, refuse(codeInvalidClient, "client_id must be an https URL")
	case localName(u.Hostname()):
		return false, nil, refuse(codeInvalidClient, "client_id must have a public host name")
	case u.Port() != "" && u.Port() != "443":
		return false, nil, refuse(codeInvalidClient, "client_id must have no port")
	}
	return false, u, nil
}

func isLoopbackHost(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// localName tells what is no name of the public network: an address, a single label, or one kept for local use.
func localName(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	switch last := labels[len(labels)-1]; {
	case len(labels) < 2 || slices.Contains(labels, ""):
		return true
	case slices.Contains([]string{"localhost", "local", "internal", "test", "invalid", "onion", "arpa", "alt"}, last):
		return true
	case strings.Trim(last, "0123456789") == "": // an address in one of its odder spellings
		return true
	}
	return false
}

// loopbackClient reads a client from an id of the form http://localhost?redirect_uri=…&scope=….
func loopbackClient(id string) (*client, error) {
	_, query, _ := strings.Cut(id, "?")
	q, err := url.ParseQuery(query)
	if err != nil || strings.Contains(id, "#") {
		return nil, refuse(codeInvalidClient, "client_id is malformed")
	}
	doc := document{
		Scope: "atproto", RedirectURIs: q["redirect_uri"], Application: "native", AuthMethod: "none",
		GrantTypes: []string{"authorization_code", "refresh_token"}, DPoPBound: true,
	}
	for name, values := range q {
		switch {
		case name == "scope" && len(values) == 1:
			doc.Scope = values[0]
		case name != "redirect_uri":
			return nil, refuse(codeInvalidClient, "client_id may hold redirect_uri and one scope only")
		}
	}
	if len(doc.RedirectURIs) == 0 {
		doc.RedirectURIs = []string{"http://127.0.0.1/", "http://[::1]/"}
	}
	for _, r := range doc.RedirectURIs {
		if u, err := url.Parse(r); err != nil || !isLoopbackIP(u) {
			return nil, refuse(codeInvalidRedirect, "a client at localhost is redirected to 127.0.0.1 or [::1] only")
		}
	}
	return doc.client(id, nil, false)
}

// client checks the metadata of the client id, which was read at the address given, nil for a loopback client.
func (d *document) client(id string, at *url.URL, allowLoopback bool) (*client, error) {
	if len(d.GrantTypes) == 0 {
		d.GrantTypes = []string{"authorization_code"}
	}
	if d.Application == "" {
		d.Application = "web"
	}
	scope := strings.Fields(d.Scope)
	switch {
	case at != nil && d.ClientID != id:
		return nil, badMetadata("client_id of the metadata is not the address it was read at")
	case !d.DPoPBound:
		return nil, badMetadata("dpop_bound_access_tokens must be true")
	case d.Application != "web" && d.Application != "native":
		return nil, badMetadata("application_type must be web or native")
	case d.SubjectType != "" && d.SubjectType != "public":
		return nil, badMetadata("subject_type must be public")
	case !slices.Contains(d.GrantTypes, "authorization_code"):
		return nil, badMetadata("grant_types must contain authorization_code")
	case slices.ContainsFunc(d.GrantTypes, func(g string) bool { return g != "authorization_code" && g != "refresh_token" }):
		return nil, badMetadata("grant_types may contain authorization_code and refresh_token only")
	case len(d.ResponseTypes) > 0 && !slices.Contains(d.ResponseTypes, "code"):
		return nil, badMetadata("response_types must contain code")
	case len(d.Scope) > maxScope || !slices.Contains(scope, "atproto"):
		return nil, badMetadata("scope must contain atproto, in at most %d bytes", maxScope)
	case len(d.RedirectURIs) == 0 || len(d.RedirectURIs) > maxRedirects:
		return nil, badMetadata("from one to %d redirect_uris are needed", maxRedirects)
	}
	c := &client{
		ClientInfo: ClientInfo{ID: id, Name: displayName(d.ClientName)},
		redirects:  d.RedirectURIs, scope: scope, refreshes: slices.Contains(d.GrantTypes, "refresh_token"),
	}
	for _, r := range d.RedirectURIs {
		if err := checkRedirect(r, d.Application, at, allowLoopback); err != nil {
			return nil, err
		}
	}
	if d.ClientURI != "" {
		u, err := url.Parse(d.ClientURI)
		if err != nil || at == nil || origin(u) != origin(at) {
			return nil, badMetadata("client_uri must be of the same origin as client_id")
		}
		c.URI = d.ClientURI
	}
	if u, err := url.Parse(d.LogoURI); err == nil && u.Scheme == "https" && len(d.LogoURI) <= maxURL {
		c.LogoURI = d.LogoURI
	}
	return c, d.authentication(c, at, allowLoopback)
}

// authentication sets how c shows who it is.
func (d *document) authentication(c *client, at *url.URL, allowLoopback bool) error {
	switch d.AuthMethod {
	case "none":
		if d.AuthAlg != "" {
			return badMetadata("token_endpoint_auth_signing_alg does not go with token_endpoint_auth_method none")
		}
		return nil
	case "private_key_jwt":
	default:
		return badMetadata("token_endpoint_auth_method must be none or private_key_jwt")
	}
	switch {
	case d.Application == "native":
		return badMetadata("a native client cannot keep a key: its token_endpoint_auth_method must be none")
	case d.AuthAlg != algES256:
		return badMetadata("token_endpoint_auth_signing_alg must be " + algES256)
	case (d.JWKS == nil) == (d.JWKSURI == ""):
		return badMetadata("private_key_jwt needs either jwks or jwks_uri")
	}
	c.Confidential = true
	if d.JWKS != nil {
		keys, err := parseKeys(d.JWKS)
		c.keys = keys
		return err
	}
	u, err := url.Parse(d.JWKSURI)
	switch {
	case err != nil || len(d.JWKSURI) > maxURL || u.User != nil:
		return badMetadata("jwks_uri is not a URL")
	case u.Scheme == "https" && !localName(u.Hostname()):
	case allowLoopback && isLoopbackHost(u.Hostname()) && origin(u) == origin(at):
	default:
		return badMetadata("jwks_uri must be an https URL with a public host name")
	}
	c.keysURI = d.JWKSURI
	return nil
}

// parseKeys reads a key set. Keys of other kinds are passed over: they may be there for other servers.
func parseKeys(raw []byte) (map[string]clientKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, badMetadata("the key set is malformed")
	}
	if len(set.Keys) > maxKeys {
		return nil, badMetadata("more than %d keys", maxKeys)
	}
	keys := map[string]clientKey{}
	for _, rawKey := range set.Keys {
		var k jwk
		if err := json.Unmarshal(rawKey, &k); err != nil || k.Kid == "" || len(k.Kid) > maxJTI {
			continue
		}
		if k.Private != nil {
			return nil, badMetadata("the key set holds a private key")
		}
		if pub, jkt, err := k.key(); err == nil {
			keys[k.Kid] = clientKey{pub: pub, jkt: jkt}
		}
	}
	if len(keys) == 0 {
		return nil, badMetadata("no key of the key set has an id and is for " + algES256)
	}
	return keys, nil
}

// displayName keeps what can stand on one line of a page.
func displayName(name string) string {
	name = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r): // control and direction marks among them
			return -1
		}
		return r
	}, name)), " ")
	if runes := []rune(name); len(runes) > maxName {
		name = string(runes[:maxName])
	}
	return name
}
