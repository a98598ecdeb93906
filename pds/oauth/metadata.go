package oauth

import (
	"encoding/json"
	"net/http"

	"city-sync.org/citysync/pds/scope"
)

// document300 serves a document that never changes while the process runs; caches keep it for 300 seconds.
func document300(v any) http.Handler {
	body, err := json.Marshal(v)
	if err != nil {
		panic("oauth: " + err.Error()) // a fault of this file, seen at start
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "max-age=300")
		_, _ = w.Write(body)
	})
}

func (s *Server) scopesSupported() []string {
	words := []string{scope.Base}
	if s.cfg.Transition {
		words = append(words, scope.TransitionEmail, scope.TransitionGeneric, scope.TransitionChat)
	}
	return words
}

// serverMetadata is RFC 8414's, with what RFC 9126, 9207, 9449 and atproto add.
func (s *Server) serverMetadata() any {
	at := func(path string) string { return s.cfg.Issuer + path }
	return map[string]any{
		"issuer":                                           s.cfg.Issuer,
		"authorization_endpoint":                           at(pathAuthorize),
		"token_endpoint":                                   at(pathToken),
		"revocation_endpoint":                              at(pathRevoke),
		"jwks_uri":                                         at(pathKeys),
		"pushed_authorization_request_endpoint":            at(pathPAR),
		"require_pushed_authorization_requests":            true,
		"authorization_response_iss_parameter_supported":   true,
		"client_id_metadata_document_supported":            true,
		"request_parameter_supported":                      false,
		"request_uri_parameter_supported":                  true,
		"require_request_uri_registration":                 true,
		"scopes_supported":                                 s.scopesSupported(),
		"subject_types_supported":                          []string{"public"},
		"response_types_supported":                         []string{"code"},
		"response_modes_supported":                         []string{modeQuery, modeFragment},
		"grant_types_supported":                            []string{"authorization_code", "refresh_token"},
		"code_challenge_methods_supported":                 []string{"S256"},
		"token_endpoint_auth_methods_supported":            []string{"none", "private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": []string{algES256},
		"dpop_signing_alg_values_supported":                []string{algES256},
		"prompt_values_supported":                          prompts,
		"ui_locales_supported":                             []string{"en", "es-MX"},
		"protected_resources":                              []string{s.cfg.Issuer},
	}
}

// resourceMetadata is RFC 9728's: the PDS guards its methods with itself.
func (s *Server) resourceMetadata() any {
	return map[string]any{
		"resource":                 s.cfg.Issuer,
		"authorization_servers":    []string{s.cfg.Issuer},
		"scopes_supported":         []string{},
		"bearer_methods_supported": []string{"header"},
		"resource_documentation":   "https://atproto.com",
	}
}
