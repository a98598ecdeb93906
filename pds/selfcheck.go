package pds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
)

// The self-check asks for what others ask of this server, at its public address: most of what goes wrong with a new server is in front of it.

const (
	checkTime   = 10 * time.Second
	maxChecked  = 64 << 10
	tlsLeftWarn = 14 * 24 * time.Hour
)

// check is one thing that was looked at. Key is a phrase of the pages.
type check struct {
	Key    string
	OK     bool
	Skip   bool   // nothing to look at here
	Detail string // what was seen
}

// selfCheck looks at everything at once.
func (s *Server) selfCheck(ctx context.Context) []check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	list := []struct {
		key string
		do  func(context.Context) (detail string, err error)
	}{
		{"check.database", s.checkDatabase},
		{"check.did", s.checkOwnDID},
		{"check.resource", func(ctx context.Context) (string, error) {
			return s.checkDocumentField(ctx, "/.well-known/oauth-protected-resource", "resource")
		}},
		{"check.authorization", func(ctx context.Context) (string, error) {
			return s.checkDocumentField(ctx, "/.well-known/oauth-authorization-server", "issuer")
		}},
		{"check.handle", s.checkHandleDomain},
		{"check.tls", s.checkTLS},
		{"check.socket", s.checkSocket},
		{"check.mail", s.checkMail},
	}
	out := make([]check, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			detail, err := c.do(ctx)
			out[i] = check{Key: c.key, OK: err == nil, Skip: errors.Is(err, errNothingToCheck), Detail: detail}
			if err != nil && !out[i].Skip {
				out[i].Detail = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

var errNothingToCheck = errors.New("nothing to check")

// fetchOwn gets a page of this server as others get it, with the last day of the certificate under which it came.
func (s *Server) fetchOwn(ctx context.Context, url string) (body []byte, until time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, until, err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return nil, until, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if body, err = io.ReadAll(io.LimitReader(res.Body, maxChecked)); err != nil {
		return nil, until, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, until, fmt.Errorf("%s answers %d", url, res.StatusCode)
	}
	if res.TLS != nil && len(res.TLS.PeerCertificates) > 0 {
		until = res.TLS.PeerCertificates[0].NotAfter
	}
	return body, until, nil
}

func (s *Server) checkDatabase(ctx context.Context) (string, error) {
	var size string
	if err := s.pool.QueryRow(ctx, `select pg_size_pretty(pg_database_size(current_database()))`).Scan(&size); err != nil {
		return "", errors.New("the database does not answer")
	}
	return size, nil
}

func (s *Server) checkOwnDID(ctx context.Context) (string, error) {
	if s.cfg.ServiceDID.Method() != "web" {
		ident, err := s.directory.LookupDID(ctx, s.cfg.ServiceDID)
		if err != nil {
			return "", err
		}
		if at := ident.PDSEndpoint(); at != s.cfg.PublicURL {
			return "", fmt.Errorf("the document of %s names %q", s.cfg.ServiceDID, at)
		}
		return s.cfg.ServiceDID.String(), nil
	}
	return s.checkField(ctx, "/.well-known/did.json", "id", s.cfg.ServiceDID.String())
}

func (s *Server) checkDocumentField(ctx context.Context, path, field string) (string, error) {
	return s.checkField(ctx, path, field, s.cfg.PublicURL)
}

func (s *Server) checkField(ctx context.Context, path, field, want string) (string, error) {
	body, _, err := s.fetchOwn(ctx, s.cfg.PublicURL+path)
	if err != nil {
		return "", err
	}
	var doc map[string]json.RawMessage
	var have string
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("%s is no JSON: another server answers there", path)
	}
	if err := json.Unmarshal(doc[field], &have); err != nil || have != want {
		return "", fmt.Errorf("%s has %s %.100q, not %s", path, field, have, want)
	}
	return have, nil
}

// checkHandleDomain asks the newest account's handle for its DID: wildcard DNS and TLS are the operator's.
func (s *Server) checkHandleDomain(ctx context.Context) (string, error) {
	if !s.secure() {
		return "", errNothingToCheck
	}
	for _, domain := range s.cfg.HandleDomains {
		var handle, did string
		const newest = `select handle, did from account where status = 'active' and right(handle, length($1)) = $1 order by created desc limit 1`
		err := s.pool.QueryRow(ctx, newest, domain).Scan(&handle, &did)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return "", errors.New("the database does not answer")
		}
		body, _, err := s.fetchOwn(ctx, "https://"+handle+"/.well-known/atproto-did")
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(body)) != did {
			return "", fmt.Errorf("https://%s gives another DID", handle)
		}
		return handle, nil
	}
	return "", errNothingToCheck
}

func (s *Server) checkTLS(ctx context.Context) (string, error) {
	if !s.secure() {
		return "", errNothingToCheck
	}
	_, until, err := s.fetchOwn(ctx, s.cfg.PublicURL+"/xrpc/_health")
	if err != nil {
		return "", err
	}
	if left := until.Sub(s.clock.Now()); left < tlsLeftWarn {
		return "", fmt.Errorf("the certificate ends on %s", until.UTC().Format(time.DateOnly))
	}
	return until.UTC().Format(time.DateOnly), nil
}

// checkSocket opens the stream where it is now, which a proxy that does not know WebSockets would refuse.
func (s *Server) checkSocket(ctx context.Context) (string, error) {
	var seq int64
	if err := s.pool.QueryRow(ctx, `select seq from event_head`).Scan(&seq); err != nil {
		return "", errors.New("the database does not answer")
	}
	url := fmt.Sprintf("%s/xrpc/com.atproto.sync.subscribeRepos?cursor=%d", s.cfg.PublicURL, seq)
	conn, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: s.http})
	if res != nil && res.Body != nil {
		_ = res.Body.Close() // a refusal's text is not wanted
	}
	if err != nil {
		return "", err
	}
	_ = conn.Close(websocket.StatusNormalClosure, "") // it was only to see that it opens
	return fmt.Sprint(seq), nil
}

func (s *Server) checkMail(context.Context) (string, error) {
	if s.mail == nil {
		return "", errors.New("no mail server is set: nobody can confirm an address, reset a password or move out by mail")
	}
	return "", nil
}
