package xrpc

import (
	"net/http"
	"strings"
)

const (
	maxCORSHeaders = 1 << 10
	exposedHeaders = "Retry-After, X-Request-Id, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, RateLimit-Policy, Atproto-Repo-Rev, Atproto-Content-Labelers"
)

// cors opens every answer to every origin, without credentials, and answers a preflight itself.
func cors(w http.ResponseWriter, r *http.Request) (done bool) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	if r.Method != http.MethodOptions {
		h.Set("Access-Control-Expose-Headers", exposedHeaders)
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
	h.Set("Access-Control-Max-Age", "86400")
	// A star would not cover Authorization, so the headers asked for are named back, if they are header names.
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" && len(asked) <= maxCORSHeaders && headerNames(asked) {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Vary", "Access-Control-Request-Headers")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func headerNames(list string) bool {
	for _, n := range strings.Split(list, ",") {
		n = strings.TrimSpace(n)
		if n == "" || strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}
