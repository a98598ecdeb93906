package pds

import (
	"errors"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tlsCheck tells a proxy that gets certificates as names are asked for whether a name is one of ours: without it anybody who points a name
// here makes the proxy ask for a certificate.
func (s *Server) tlsCheck(w http.ResponseWriter, r *http.Request) {
	domain := strings.ToLower(r.URL.Query().Get("domain"))
	if domain == s.host || domain == s.cfg.BlobHost && domain != "" {
		text("ours").ServeHTTP(w, r)
		return
	}
	if domain == "" || strings.ContainsAny(domain, ":@") {
		http.Error(w, "domain is the name of a host", http.StatusBadRequest)
		return
	}
	acc, err := s.findAccount(r.Context(), domain)
	switch {
	case err == nil && acc.Status == statusActive:
		text("an account's").ServeHTTP(w, r)
	case err == nil, errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "not a name of this server", http.StatusNotFound)
	default:
		s.log.Error("name lookup", "error", err)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	}
}
