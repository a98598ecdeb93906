package oauth

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	maxForm   = 64 << 10
	maxFields = 40
)

// form is the body of a request: each field stands once.
type form map[string]string

func readForm(w http.ResponseWriter, r *http.Request) (form, error) {
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/x-www-form-urlencoded" {
		return nil, refuse(CodeInvalidRequest, "the body must be application/x-www-form-urlencoded")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, refuse(CodeInvalidRequest, "the body is longer than %d bytes or broke off", maxForm)
	}
	return parseForm(string(raw))
}

func parseForm(raw string) (form, error) {
	if strings.Count(raw, "&") >= maxFields {
		return nil, refuse(CodeInvalidRequest, "more than %d fields", maxFields)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, refuse(CodeInvalidRequest, "the body is malformed")
	}
	f := form{}
	for name, v := range values {
		if len(v) != 1 {
			return nil, refuse(CodeInvalidRequest, "field %.64q stands more than once", name)
		}
		if !utf8.ValidString(v[0]) || strings.ContainsRune(v[0], 0) {
			return nil, refuse(CodeInvalidRequest, "field %.64q is not text", name)
		}
		if v[0] != "" { // RFC 6749, 3.1: a parameter without a value counts as not sent
			f[name] = v[0]
		}
	}
	return f, nil
}
