package oauth

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/pds/scope"
)

const (
	requestLife  = 5 * time.Minute // of a request that nobody looks at
	requestLimit = time.Hour       // of one whose owner takes long to answer
	requestURI   = "urn:ietf:params:oauth:request_uri:"
	maxState     = 2 << 10

	modeQuery    = "query"
	modeFragment = "fragment"
)

// pushed is an authorization request that was found in order.
type pushed struct {
	redirect, state, mode, scope, challenge, hint, prompt string
}

var prompts = []string{"none", "login", "consent", "select_account", "create"}

// push takes an authorization request (RFC 9126).
func (s *Server) push(r *http.Request, f form, now time.Time) (int, any, error) {
	ctx := r.Context()
	p, err := s.checkProof(r, "", now)
	if err != nil {
		return 0, nil, err
	}
	if err := s.useProof(ctx, p, now); err != nil {
		return 0, nil, err
	}
	c, err := s.authenticate(ctx, f, p, now)
	if err != nil {
		return 0, nil, err
	}
	if jkt := f["dpop_jkt"]; jkt != "" && jkt != p.JKT {
		return 0, nil, refuse(codeInvalidProof, "dpop_jkt is not the key of the proof")
	}
	req, err := s.readRequest(c.client, f)
	if err != nil {
		return 0, nil, err
	}
	id := randomToken(16)
	const insert = `
		insert into oauth_request (id, client, client_key, jkt, redirect, state, mode, scope, challenge, hint, prompt, created, expires)
		values (@id, @client, @key, @jkt, @redirect, @state, @mode, @scope, @challenge, @hint, @prompt, @now, @expires)`
	_, err = s.pool.Exec(ctx, insert, pgx.NamedArgs{
		"id": id, "client": c.ID, "key": c.key, "jkt": p.JKT, "redirect": req.redirect, "state": req.state, "mode": req.mode,
		"scope": req.scope, "challenge": req.challenge, "hint": req.hint, "prompt": req.prompt, "now": now, "expires": now.Add(requestLife),
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, struct {
		URI     string `json:"request_uri"`
		Seconds int    `json:"expires_in"`
	}{requestURI + id, int(requestLife / time.Second)}, nil
}

// readRequest judges the parameters of an authorization request of c.
func (s *Server) readRequest(c *client, f form) (*pushed, error) {
	for _, name := range []string{"request_uri", "claims", "id_token_hint", "nonce", "authorization_details"} {
		if f[name] != "" {
			return nil, refuse(CodeInvalidRequest, "%s is not taken here", name)
		}
	}
	req := &pushed{redirect: f["redirect_uri"], state: f["state"], mode: f["response_mode"], challenge: f["code_challenge"], prompt: f["prompt"]}
	if req.redirect == "" && len(c.redirects) == 1 {
		req.redirect = c.redirects[0]
	}
	if req.mode == "" {
		req.mode = modeQuery
	}
	switch {
	case f["request"] != "":
		return nil, refuse(codeRequestNotSupported, "a signed request is not taken here; push its parameters")
	case f["response_type"] == "":
		return nil, refuse(CodeInvalidRequest, "response_type is missing")
	case f["response_type"] != "code":
		return nil, refuse(codeUnsupportedResponse, "response_type must be code")
	case req.mode != modeQuery && req.mode != modeFragment:
		return nil, refuse(CodeInvalidRequest, "response_mode must be %s or %s", modeQuery, modeFragment)
	case req.redirect == "" || len(req.redirect) > maxURL || !c.mayRedirect(req.redirect):
		return nil, refuse(CodeInvalidRequest, "redirect_uri is not one of the client's")
	case len(req.state) > maxState:
		return nil, refuse(CodeInvalidRequest, "state is longer than %d bytes", maxState)
	case f["code_challenge_method"] != "S256":
		return nil, refuse(CodeInvalidRequest, "code_challenge_method must be S256")
	case !isChallenge(req.challenge):
		return nil, refuse(CodeInvalidRequest, "code_challenge is missing or no SHA-256 in base64url")
	case req.prompt != "" && !slices.Contains(prompts, req.prompt):
		return nil, refuse(CodeInvalidRequest, "prompt must be one of %s", strings.Join(prompts, ", "))
	case req.prompt == "none" && !c.Confidential:
		return nil, refuse(CodeInvalidRequest, "prompt none is for clients that authenticate")
	}
	hint, ok := loginHint(f["login_hint"])
	if !ok {
		return nil, refuse(CodeInvalidRequest, "login_hint is neither a handle nor a DID")
	}
	req.hint = hint
	set, err := s.askedScope(c, f["scope"])
	if err != nil {
		return nil, err
	}
	req.scope = set.String()
	return req, nil
}

func isChallenge(v string) bool {
	raw, err := b64.DecodeString(v)
	return err == nil && len(raw) == 32
}

// loginHint is a hint in the form in which accounts are looked up.
func loginHint(v string) (string, bool) {
	if v == "" {
		return "", true
	}
	if did, err := syntax.ParseDID(v); err == nil {
		return did.String(), true
	}
	if h, err := syntax.ParseHandle(strings.ToLower(strings.TrimPrefix(v, "@"))); err == nil {
		return h.String(), true
	}
	return "", false
}

// askedScope reads the scope of a request: all of it must be understood, and declared in the client's metadata.
func (s *Server) askedScope(c *client, raw string) (*scope.Set, error) {
	if len(raw) > maxScope {
		return nil, refuse(codeInvalidScope, "scope is longer than %d bytes", maxScope)
	}
	words := strings.Fields(raw)
	if !slices.Contains(words, scope.Base) {
		return nil, refuse(codeInvalidScope, "scope must contain "+scope.Base)
	}
	for _, w := range words {
		if !slices.Contains(c.scope, w) {
			return nil, refuse(codeInvalidScope, "%.200q is not declared in the client's metadata", w)
		}
		if !s.cfg.Transition && strings.HasPrefix(w, "transition:") {
			return nil, refuse(codeInvalidScope, "%.200q is not given here; ask for what the client does", w)
		}
	}
	set, err := s.scopes(raw)
	if err != nil {
		return nil, refuse(codeInvalidScope, "%s", err)
	}
	return set, nil
}
