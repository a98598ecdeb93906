package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

// revoke ends the session of a token (RFC 7009), refresh or access, over or not. A token that opens nothing is no error. A
// proof is judged where there is one, but not asked for: who holds a token may always give it up.
func (s *Server) revoke(r *http.Request, f form, now time.Time) (int, any, error) {
	ctx := r.Context()
	var p *proof
	if len(r.Header.Values("DPoP")) > 0 {
		var err error
		if p, err = s.checkProof(r, "", now); err != nil {
			return 0, nil, err
		}
		if err := s.useProof(ctx, p, now); err != nil {
			return 0, nil, err
		}
	}
	c, err := s.authenticate(ctx, f, p, now)
	if err != nil {
		return 0, nil, err
	}
	raw := f["token"]
	if raw == "" {
		return 0, nil, refuse(CodeInvalidRequest, "token is missing")
	}
	id, err := s.sessionOf(r, raw)
	if err != nil {
		return 0, nil, err
	}
	if _, err := s.pool.Exec(ctx, `delete from oauth_session where id = $1 and client = $2`, id, c.ID); err != nil {
		return 0, nil, fmt.Errorf("revoke session: %w", err)
	}
	return http.StatusOK, struct{}{}, nil
}

// sessionOf is the id of the session that a token is of, empty for what is no token of ours.
func (s *Server) sessionOf(r *http.Request, raw string) (string, error) {
	if claims, ok := s.readAccess(raw); ok {
		return claims.JTI, nil
	}
	id, generation, ok := parseRefresh(raw)
	if !ok {
		return "", nil
	}
	var row grantRow
	err := s.scanGrant(s.pool.QueryRow(r.Context(), `select `+grantColumns+` from oauth_session where id = $1`, id), &row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look at session: %w", err)
	case !s.isRefreshToken(&row, generation, raw):
		return "", nil
	}
	return id, nil
}
