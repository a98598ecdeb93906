package oauth

import (
	"net/url"
	"slices"
	"strings"
)

func badRedirect(format string, a ...any) *Error {
	return refuse(codeInvalidRedirect, format, a...)
}

func isLoopbackIP(u *url.URL) bool {
	return u.Scheme == "http" && (u.Hostname() == "127.0.0.1" || u.Hostname() == "::1")
}

// checkRedirect judges one redirect URI of a client's metadata (RFC 8252, and what atproto adds to it).
func checkRedirect(raw, application string, at *url.URL, allowLoopback bool) error {
	if len(raw) > maxURL {
		return badRedirect("a redirect URI is too long")
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Fragment != "" || strings.Contains(raw, "#") {
		return badRedirect("a redirect URI is malformed, or has a user name or a fragment")
	}
	sameOrigin := at != nil && origin(u) == origin(at)
	switch {
	case isLoopbackIP(u):
		if application != "native" && !(allowLoopback && sameOrigin) {
			return badRedirect("only native clients are redirected to this machine")
		}
		return nil
	case allowLoopback && sameOrigin && isLoopbackHost(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return badRedirect("http is for loopback addresses only, spelled 127.0.0.1 or [::1]")
	case u.Scheme == "https":
		if localName(u.Hostname()) {
			return badRedirect("an https redirect URI needs a public host name")
		}
		return nil
	case !strings.Contains(u.Scheme, "."):
		return badRedirect("the scheme of a redirect URI must be https, or a host name in reverse order")
	case application != "native":
		return badRedirect("only native clients have a scheme of their own")
	case at == nil || u.Scheme != reversed(at.Hostname()):
		return badRedirect("the scheme must be the client's host name in reverse order")
	case u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(raw[len(u.Scheme)+1:], "//"):
		return badRedirect("the scheme must be followed by one colon and one slash")
	}
	return nil
}

func reversed(host string) string {
	labels := strings.Split(strings.ToLower(host), ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".")
}

// mayRedirect tells whether c may be redirected to asked: exactly what it registered, but for the port of a loopback address
// that was registered without one (RFC 8252, 7.3).
func (c *client) mayRedirect(asked string) bool {
	if slices.Contains(c.redirects, asked) {
		return true
	}
	a, err := url.Parse(asked)
	if err != nil || !isLoopbackIP(a) || a.User != nil || strings.Contains(asked, "#") {
		return false
	}
	return slices.ContainsFunc(c.redirects, func(r string) bool {
		u, err := url.Parse(r)
		return err == nil && isLoopbackIP(u) && u.Port() == "" && u.Hostname() == a.Hostname() &&
			u.EscapedPath() == a.EscapedPath() && u.RawQuery == a.RawQuery
	})
}

// redirectTo adds params to where the client waits for its answer.
func redirectTo(uri, mode string, params url.Values) string {
	if mode == modeFragment {
		return uri + "#" + params.Encode()
	}
	switch {
	case !strings.Contains(uri, "?"):
		return uri + "?" + params.Encode()
	case strings.HasSuffix(uri, "?") || strings.HasSuffix(uri, "&"):
		return uri + params.Encode()
	}
	return uri + "&" + params.Encode()
}
