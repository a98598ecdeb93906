package xrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Names of errors that every service of the network shares.
const (
	NameInvalidRequest   = "InvalidRequest"
	NameInternal         = "InternalServerError"
	NameNotImplemented   = "MethodNotImplemented"
	NamePayloadTooLarge  = "PayloadTooLarge"
	NameAuthMissing      = "AuthMissing"
	NameBusy             = "NotEnoughResources"
	NameUpstreamFailure  = "UpstreamFailure"
	NameNotFound         = "NotFound"
	NameUnsupportedMedia = "UnsupportedMediaType"
	maxErrorName         = 128
	maxErrorMessage      = 4096
	maxRetryAfter        = time.Hour
	unknownErrorName     = "UnknownError"
	internalErrorMessage = "internal server error"
)

// Error is an answer that the caller may see: an HTTP status, the lexicon's error name, a sentence, and the
// figures that explain a refusal. The client returns the same type, so that a refusal reads alike on both sides.
type Error struct {
	Status  int
	Name    string
	Message string
	Figures map[string]any
	// RetryAfter, when positive, says that the same request may succeed later.
	RetryAfter time.Duration
}

// Errorf makes an Error.
func Errorf(status int, name, format string, a ...any) *Error {
	return &Error{Status: status, Name: name, Message: fmt.Sprintf(format, a...)}
}

// InvalidRequest makes the 400 that says what is wrong with a request.
func InvalidRequest(format string, a ...any) *Error {
	return Errorf(http.StatusBadRequest, NameInvalidRequest, format, a...)
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s (%d)", e.Name, e.Status)
	}
	return fmt.Sprintf("%s (%d): %s", e.Name, e.Status, e.Message)
}

// With returns a copy of e that carries figures.
func (e *Error) With(figures map[string]any) *Error {
	c := *e
	c.Figures = figures
	return &c
}

// After returns a copy of e that asks the caller to come back after d.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Is reports whether target is an *Error with the same name, so that errors.Is works by name.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Name == e.Name && (t.Status == 0 || t.Status == e.Status)
}

type errorBody struct {
	Error   string         `json:"error"`
	Message string         `json:"message,omitempty"`
	Figures map[string]any `json:"figures,omitempty"`
}

// WriteError writes e as the JSON error body of XRPC, for handlers that live outside Query and Procedure.
func WriteError(w http.ResponseWriter, e *Error) {
	body, err := json.Marshal(errorBody{Error: e.Name, Message: e.Message, Figures: e.Figures})
	if err != nil { // figures that are no JSON: the name still tells
		body, _ = json.Marshal(errorBody{Error: e.Name, Message: e.Message})
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	h.Del("ETag")
	h.Del("Content-Disposition")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if e.Status == http.StatusUnauthorized && h.Get("WWW-Authenticate") == "" {
		h.Set("WWW-Authenticate", "Bearer")
	}
	status := e.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller has gone if this errs
}

// public turns any error into what the caller may see. shown is false when the text was withheld (X2).
func public(err error) (e *Error, shown bool) {
	var xe *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &xe) && xe != nil:
		return xe, true
	case errors.As(err, &tooLarge):
		return Errorf(http.StatusRequestEntityTooLarge, NamePayloadTooLarge, "the body is longer than %d bytes", tooLarge.Limit), true
	case errors.Is(err, context.Canceled): // the caller has gone, or the service is stopping
		return Errorf(http.StatusServiceUnavailable, NameBusy, "the request was cancelled").After(time.Second), true
	}
	return Errorf(http.StatusInternalServerError, NameInternal, internalErrorMessage), false
}
