package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"city-sync.org/citysync/internal/pg"
)

// Names of refusals, from RFC 6749, 7009, 7591, 9126 and 9449.
const (
	CodeAccessDenied        = "access_denied"
	CodeInvalidRequest      = "invalid_request"
	codeInvalidClient       = "invalid_client"
	codeInvalidMetadata     = "invalid_client_metadata"
	codeInvalidRedirect     = "invalid_redirect_uri"
	codeInvalidGrant        = "invalid_grant"
	codeInvalidScope        = "invalid_scope"
	codeUnauthorizedClient  = "unauthorized_client"
	codeUnsupportedGrant    = "unsupported_grant_type"
	codeUnsupportedResponse = "unsupported_response_type"
	codeRequestNotSupported = "request_not_supported"
	codeInvalidProof        = "invalid_dpop_proof"
	codeUseNonce            = "use_dpop_nonce"
	codeInvalidToken        = "invalid_token"
	codeServerError         = "server_error"
	codeUnavailable         = "temporarily_unavailable"
)

// Error is a refusal that its reader may see. All are final except use_dpop_nonce, which asks for the same again with the
// nonce given, and temporarily_unavailable.
type Error struct {
	Code        string
	Description string
	Status      int           // of an answer that is not a redirect
	Wait        time.Duration // when positive, how long to wait before the same is asked again
}

func (e *Error) Error() string { return e.Code + ": " + e.Description }

func refuse(code, format string, a ...any) *Error {
	return &Error{Code: code, Description: fmt.Sprintf(format, a...), Status: http.StatusBadRequest}
}

func busy(wait time.Duration, format string, a ...any) *Error {
	e := refuse(codeUnavailable, format, a...)
	e.Status, e.Wait = http.StatusServiceUnavailable, wait
	return e
}

// public turns any error into what a stranger may see; the text of one of ours is logged, not shown.
func (s *Server) public(ctx context.Context, err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case pg.Away(err), errors.Is(err, context.Canceled):
		return busy(time.Second, "the server cannot work just now; ask again")
	}
	s.log.ErrorContext(ctx, "oauth request failed", "error", err)
	e = refuse(codeServerError, "internal server error")
	e.Status = http.StatusInternalServerError
	return e
}

// Answer puts on the answer to a request that Authenticate judged what its client needs to go on: the nonce to use next and,
// after a refusal, the challenge that names it. It returns the refusal, nil where err is nil.
func (s *Server) Answer(ctx context.Context, h http.Header, err error) *Error {
	if nonce, err := s.nonce(ctx); err == nil { // otherwise the refusal says why
		h.Set("DPoP-Nonce", nonce)
	}
	h.Add("Access-Control-Expose-Headers", "DPoP-Nonce, WWW-Authenticate")
	if err == nil {
		return nil
	}
	e := s.public(ctx, err)
	if e.Status == http.StatusUnauthorized {
		// A description of ours holds no quote and no backslash, so it needs no escape here.
		h.Set("WWW-Authenticate", fmt.Sprintf(`DPoP algs="%s", error="%s", error_description="%s"`, algES256, e.Code, e.Description))
	}
	return e
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"`+codeServerError+`"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller has gone if this errs
}

func writeError(w http.ResponseWriter, e *Error) {
	if e.Wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.Wait.Seconds()))))
	}
	writeJSON(w, e.Status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{e.Code, e.Description})
}
