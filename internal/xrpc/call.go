package xrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxParam = 8 << 10 // characters of one parameter; an at-uri is the longest
	maxToken = 8 << 10
)

// Written is returned by a method that has written its whole answer to Call.W itself.
var Written any = written{}

type written struct{}

// Call is one request to one method. It belongs to the goroutine that handles the request.
type Call struct {
	R    *http.Request
	W    http.ResponseWriter
	NSID string

	params  url.Values
	invalid *Error // the first parameter that broke a rule; wins over whatever the method returns
}

// Context is the request's context.
func (c *Call) Context() context.Context { return c.R.Context() }

func (c *Call) refuse(e *Error) *Error {
	if c.invalid == nil {
		c.invalid = e
	}
	return e
}

func (c *Call) scalar(name string) (v string, ok bool, err error) {
	vs, ok := c.params[name]
	if !ok {
		return "", false, nil
	}
	if len(vs) != 1 {
		return "", false, c.refuse(InvalidRequest("parameter %q may stand only once", name))
	}
	if len(vs[0]) > maxParam || !utf8.ValidString(vs[0]) || strings.ContainsRune(vs[0], 0) {
		return "", false, c.refuse(InvalidRequest("parameter %q is too long or not text", name))
	}
	return vs[0], true, nil
}

// Param is a scalar parameter, or "" when it is absent. One that is repeated, too long or not UTF-8 reads as ""
// and the request is answered InvalidRequest, whatever the method returns.
func (c *Call) Param(name string) string {
	v, _, _ := c.scalar(name)
	return v
}

// Err is the first parameter read so far that broke a rule. A method that writes its answer itself asks before it begins: afterwards the
// refusal could only cut the answer off.
func (c *Call) Err() error {
	if c.invalid == nil {
		return nil
	}
	return c.invalid
}

// Has reports whether the parameter is present, be it empty.
func (c *Call) Has(name string) bool { return c.params.Has(name) }

// Required is a scalar parameter that must be present and not empty.
func (c *Call) Required(name string) (string, error) {
	v, _, err := c.scalar(name)
	if err != nil {
		return "", err
	}
	if v == "" {
		return "", c.refuse(InvalidRequest("parameter %q is required", name))
	}
	return v, nil
}

// Strings is a repeated parameter of at most max values.
func (c *Call) Strings(name string, max int) ([]string, error) {
	vs := c.params[name]
	if len(vs) > max {
		return nil, c.refuse(InvalidRequest("parameter %q may stand at most %d times", name, max))
	}
	for _, v := range vs {
		if len(v) > maxParam || !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			return nil, c.refuse(InvalidRequest("parameter %q is too long or not text", name))
		}
	}
	return slices.Clone(vs), nil
}

// Int is an integer parameter within [min, max], or def when absent.
func (c *Call) Int(name string, def, min, max int64) (int64, error) {
	v, ok, err := c.scalar(name)
	if err != nil || !ok {
		return def, err
	}
	n, perr := strconv.ParseInt(v, 10, 64)
	if perr != nil || strings.HasPrefix(v, "+") {
		return 0, c.refuse(InvalidRequest("parameter %q must be an integer", name))
	}
	if n < min || n > max {
		return 0, c.refuse(InvalidRequest("parameter %q must be from %d to %d", name, min, max))
	}
	return n, nil
}

// Bool is a parameter that reads exactly true or false, or def when absent.
func (c *Call) Bool(name string, def bool) (bool, error) {
	v, ok, err := c.scalar(name)
	if err != nil || !ok {
		return def, err
	}
	switch v {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, c.refuse(InvalidRequest("parameter %q must be true or false", name))
}

// Body reads the JSON body into v. The body must be application/json, valid UTF-8, one value and nothing after it,
// and within the method's limit; otherwise the error is the answer to give.
func (c *Call) Body(v any) error {
	mt, ps, err := mime.ParseMediaType(c.R.Header.Get("Content-Type"))
	if err != nil || mt != "application/json" {
		return Errorf(http.StatusUnsupportedMediaType, NameUnsupportedMedia, "the body must be application/json")
	}
	if cs, ok := ps["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
		return Errorf(http.StatusUnsupportedMediaType, NameUnsupportedMedia, "the body must be UTF-8")
	}
	raw, err := io.ReadAll(c.R.Body) // bounded: the mux wrapped it in http.MaxBytesReader
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return InvalidRequest("the body could not be read")
	}
	if !utf8.Valid(raw) {
		return InvalidRequest("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(v); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return InvalidRequest("field %q has the wrong type", typ.Field)
		}
		if errors.Is(err, io.EOF) {
			return InvalidRequest("the body is empty")
		}
		var own *Error
		if errors.As(err, &own) { // an UnmarshalJSON that names its refusal
			return own
		}
		return InvalidRequest("the body is not the JSON this method expects")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return InvalidRequest("the body has data after its JSON value")
	}
	return nil
}

// Bearer is the token of an Authorization: Bearer header.
func (c *Call) Bearer() (token string, ok bool) {
	hs := c.R.Header.Values("Authorization")
	if len(hs) != 1 {
		return "", false
	}
	scheme, tok, found := strings.Cut(hs[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || tok == "" || len(tok) > maxToken || strings.ContainsAny(tok, " \t,") {
		return "", false
	}
	return tok, true
}

// Basic is the user and password of an Authorization: Basic header. Compare the password in constant time.
func (c *Call) Basic() (user, password string, ok bool) {
	if len(c.R.Header.Values("Authorization")) != 1 {
		return "", "", false
	}
	return c.R.BasicAuth()
}
