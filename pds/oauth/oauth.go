package oauth

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/pds/scope"
)

// Accounts knows who may be acted for.
type Accounts interface {
	// MayAct tells whether tokens may be given to act for the account as the actor allowed: both can be used, and one may
	// still act for the other.
	MayAct(ctx context.Context, account, actor syntax.DID) (bool, error)
}

// Config is all that a Server works with. Limit, Count, AllowLoopback, Transition and Trusted are optional.
type Config struct {
	// Issuer is the PDS's public URL, without a final slash: it issues the tokens and is their audience.
	Issuer   string
	Pool     *pgxpool.Pool // sees the schema pds
	HTTP     *http.Client  // guarded: it fetches what strangers name
	Clock    clock.Clock
	Log      *slog.Logger
	Secret   []byte // at least 32 bytes, the same in every process on one database
	Accounts Accounts
	// Scopes reads a scope; what it does not know is an error whose text the client sees.
	Scopes func(string) (*scope.Set, error)
	// Limit counts a request to PAR, token or revoke and tells how long its sender must wait, zero where it need not.
	Limit func(answer http.Header, r *http.Request) time.Duration
	// Count takes what came of each of these requests: ok, or the name of its refusal.
	Count func(path, outcome string)

	AllowLoopback bool     // clients whose metadata stands on this machine
	Transition    bool     // scopes from before permissions were granular
	Trusted       []string // ids of clients whose name is shown as it is
}

func (c Config) validate() error {
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Path != "" || u.RawQuery != "":
		return fmt.Errorf("issuer %q must be http(s)://HOST[:PORT]", c.Issuer)
	case c.Pool == nil:
		return errors.New("no database pool")
	case c.HTTP == nil:
		return errors.New("no HTTP client")
	case c.Clock == nil:
		return errors.New("no clock")
	case c.Log == nil:
		return errors.New("no logger")
	case len(c.Secret) < 32:
		return errors.New("secret is shorter than 32 bytes")
	case c.Accounts == nil:
		return errors.New("no accounts")
	case c.Scopes == nil:
		return errors.New("no reader of scopes")
	}
	return nil
}

// Server is one process's part of the authorization server; all on one database and secret are one.
type Server struct {
	cfg     Config
	issuer  string // as sameTarget compares it
	pool    *pgxpool.Pool
	clock   clock.Clock
	log     *slog.Logger
	clients *clients
	salted  atomic.Pointer[[]byte]

	nonceKey, accessKey, refreshKey []byte

	mu   sync.Mutex // guards sets
	sets map[string]*scope.Set
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("oauth: %w", err)
	}
	if cfg.Limit == nil {
		cfg.Limit = func(http.Header, *http.Request) time.Duration { return 0 }
	}
	if cfg.Count == nil {
		cfg.Count = func(string, string) {}
	}
	u, err := url.Parse(cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("oauth: %w", err)
	}
	s := &Server{
		cfg: cfg, issuer: origin(u), pool: cfg.Pool, clock: cfg.Clock, log: cfg.Log, clients: newClients(cfg),
		sets: map[string]*scope.Set{},
	}
	// One secret serves for all, and no token of one kind can pass for another's.
	for label, key := range map[string]*[]byte{"nonce": &s.nonceKey, "access": &s.accessKey, "refresh": &s.refreshKey} {
		if *key, err = hkdf.Key(sha256.New, cfg.Secret, nil, "city-sync oauth "+label, 32); err != nil {
			return nil, fmt.Errorf("oauth: %w", err)
		}
	}
	return s, nil
}

const maxSets = 1000

// scopes is Config.Scopes with a memory: a session's scope is read with every request.
func (s *Server) scopes(raw string) (*scope.Set, error) {
	s.mu.Lock()
	set, ok := s.sets[raw]
	s.mu.Unlock()
	if ok {
		return set, nil
	}
	set, err := s.cfg.Scopes(raw)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sets) >= maxSets {
		clear(s.sets)
	}
	s.sets[raw] = set
	return set, nil
}

const (
	pathAuthorize = "/oauth/authorize"
	pathPAR       = "/oauth/par"
	pathToken     = "/oauth/token" //nolint:gosec // a path
	pathRevoke    = "/oauth/revoke"
	pathKeys      = "/oauth/jwks"
)

// Register routes everything but the page at /oauth/authorize. CORS is for the mux around it: every answer is open to every
// origin, without credentials.
func (s *Server) Register(handle func(pattern string, h http.Handler)) {
	handle("GET /.well-known/oauth-authorization-server", document300(s.serverMetadata()))
	handle("GET /.well-known/oauth-protected-resource", document300(s.resourceMetadata()))
	handle("GET "+pathKeys, document300(map[string]any{"keys": []any{}})) // our tokens are read by nobody else
	handle(pathPAR, s.endpoint(pathPAR, s.push))
	handle(pathToken, s.endpoint(pathToken, s.token))
	handle(pathRevoke, s.endpoint(pathRevoke, s.revoke))
}

// endpoint is what all that clients post to have in common.
func (s *Server) endpoint(path string, fn func(r *http.Request, f form, now time.Time) (int, any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		status, out, err := s.serve(w, r, fn)
		e := s.Answer(r.Context(), h, err)
		if e == nil {
			s.cfg.Count(path, "ok")
			writeJSON(w, status, out)
			return
		}
		s.cfg.Count(path, e.Code)
		writeError(w, e)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, fn func(r *http.Request, f form, now time.Time) (int, any, error)) (int, any, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		e := refuse(CodeInvalidRequest, "the method must be POST")
		e.Status = http.StatusMethodNotAllowed
		return 0, nil, e
	}
	if wait := s.cfg.Limit(w.Header(), r); wait > 0 {
		e := busy(wait, "too many requests")
		e.Status = http.StatusTooManyRequests
		return 0, nil, e
	}
	f, err := readForm(w, r)
	if err != nil {
		return 0, nil, err
	}
	return fn(r, f, s.clock.Now())
}
