package pds

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

func (s *Server) moreRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Procedure("com.atproto.moderation.createReport", s.createReport, small)
	m.Query("com.atproto.temp.checkHandleAvailability", s.checkHandleAvailability)
	m.Procedure("com.atproto.temp.revokeAccountCredentials", s.revokeAccountCredentials, small)
	m.Query("app.bsky.actor.getPreferences", s.getPreferences)
	m.Procedure("app.bsky.actor.putPreferences", s.putPreferences, small)
}

type handleSuggestion struct {
	Handle string `json:"handle"`
	Method string `json:"method"`
}

type handleResult struct {
	Type        string             `json:"$type"`
	Suggestions []handleSuggestion `json:"suggestions,omitempty"`
}

const (
	handleAvailable   = "com.atproto.temp.checkHandleAvailability#resultAvailable"
	handleUnavailable = "com.atproto.temp.checkHandleAvailability#resultUnavailable"
	maxSuggestions    = 3
)

// checkHandleAvailability says whether a handle can be had here. Of an address it says only whether it is one, never whose.
func (s *Server) checkHandleAvailability(c *xrpc.Call) (any, error) {
	raw, err := c.Required("handle")
	if err != nil {
		return nil, err
	}
	if email := c.Param("email"); email != "" {
		if _, err := normalEmail(email); err != nil {
			return nil, refused("InvalidEmail", "the e-mail address is malformed")
		}
	}
	ctx := c.Context()
	handle, err := s.cfg.ownHandle(raw)
	result := handleResult{Type: handleAvailable}
	switch {
	case refusalName(err) == "HandleNotAvailable":
		handle, result.Type = strings.ToLower(raw), handleUnavailable
	case err != nil:
		return nil, err
	default:
		taken, err := s.handlesTaken(ctx, handle)
		if err != nil {
			return nil, err
		}
		if taken[handle] {
			result.Type = handleUnavailable
		}
	}
	if result.Type == handleUnavailable {
		if result.Suggestions, err = s.suggest(ctx, handle); err != nil {
			return nil, err
		}
	}
	return struct {
		Handle string       `json:"handle"`
		Result handleResult `json:"result"`
	}{handle, result}, nil
}

func (s *Server) handlesTaken(ctx context.Context, handles ...string) (map[string]bool, error) {
	const find = `select handle from account where handle = any ($1) union select handle from signup where handle = any ($1)`
	rows, err := s.pool.Query(ctx, find, handles)
	if err != nil {
		return nil, fmt.Errorf("look for handles: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for handles: %w", err)
	}
	taken := map[string]bool{}
	for _, h := range list {
		taken[h] = true
	}
	return taken, nil
}

// suggest puts numbers behind a name that is taken.
func (s *Server) suggest(ctx context.Context, handle string) ([]handleSuggestion, error) {
	label, domain, _ := strings.Cut(handle, ".")
	var candidates []string
	for n := 2; n < 12; n++ {
		h, err := s.cfg.ownHandle(label + strconv.Itoa(n) + "." + domain)
		if err == nil {
			candidates = append(candidates, h)
		}
	}
	taken, err := s.handlesTaken(ctx, candidates...)
	if err != nil {
		return nil, err
	}
	var out []handleSuggestion
	for _, h := range candidates {
		if !taken[h] && len(out) < maxSuggestions {
			out = append(out, handleSuggestion{Handle: h, Method: "number"})
		}
	}
	return out, nil
}

// revokeAccountCredentials locks everybody out of an account that others got hold of: its password, what was opened with it, and what was made
// of it. Its owner sets a new password by mail.
func (s *Server) revokeAccountCredentials(c *xrpc.Call) (any, error) {
	var in struct {
		Account string `json:"account"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	return nil, s.asOperator(c, RoleModerator, in.Account, "", func(ctx context.Context, acc *account) error {
		return s.lockOut(ctx, acc.DID)
	})
}

func (s *Server) lockOut(ctx context.Context, did syntax.DID) error {
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// No password has an empty hash, so none opens the account.
		if _, err := tx.Exec(ctx, `update account set password = '' where did = $1`, did); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from mail_word where did = $1`, did); err != nil {
			return err
		}
		return endAll(ctx, tx, did)
	})
	if err != nil {
		return fmt.Errorf("revoke credentials of %s: %w", did, err)
	}
	s.log.Info("credentials revoked", "did", did)
	return nil
}
