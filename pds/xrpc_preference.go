package pds

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// Bluesky's app keeps what a person wishes at the PDS and does not start without. Nothing in it is read here; it is kept as it was written.

const (
	maxPreferences     = 1000
	maxPreferenceBytes = 100_000
	preferencePrefix   = "app.bsky."
	personalDetails    = "app.bsky.actor.defs#personalDetailsPref" // a date of birth: only for who has the whole account
)

// wishes is whom the preferences are for, and whether personal details are theirs to see and set.
func (s *Server) wishes(c *xrpc.Call) (did syntax.DID, whole bool, err error) {
	a, err := s.caller(c)
	if err != nil {
		return "", false, err
	}
	if err := a.mayCall(c.NSID, cmp.Or(s.cfg.AppView, s.cfg.ServiceDID.String()+"#atproto_pds")); err != nil {
		return "", false, err
	}
	return a.Account.DID, a.Kind == bySession && a.Actor == a.Account.DID, nil
}

func (s *Server) getPreferences(c *xrpc.Call) (any, error) {
	did, whole, err := s.wishes(c)
	if err != nil {
		return nil, err
	}
	list, err := readPreferences(c.Context(), s.pool, did)
	if err != nil {
		return nil, err
	}
	if !whole {
		list = withoutDetails(list)
	}
	return struct {
		Preferences []json.RawMessage `json:"preferences"`
	}{list}, nil
}

func (s *Server) putPreferences(c *xrpc.Call) (any, error) {
	did, whole, err := s.wishes(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Preferences []json.RawMessage `json:"preferences"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Preferences == nil || len(in.Preferences) > maxPreferences {
		return nil, invalid("preferences is a list of at most %d", maxPreferences)
	}
	size := 0
	for i, p := range in.Preferences {
		size += len(p)
		kind := preferenceType(p)
		if !strings.HasPrefix(kind, preferencePrefix) {
			return nil, invalid("preference %d: $type %.100q is none of %s*", i, kind, preferencePrefix)
		}
		if kind == personalDetails && !whole {
			return nil, refused("InvalidRequest", "preference %d: an app password does not set personal details", i)
		}
	}
	if size > maxPreferenceBytes {
		return nil, invalid("preferences have %d bytes at most", maxPreferenceBytes)
	}
	return nil, s.keepPreferences(c.Context(), did, in.Preferences, whole)
}

func preferenceType(raw json.RawMessage) string {
	var p struct {
		Type string `json:"$type"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return ""
	}
	return p.Type
}

func withoutDetails(list []json.RawMessage) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(list))
	for _, p := range list {
		if preferenceType(p) != personalDetails {
			out = append(out, p)
		}
	}
	return out
}

type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readPreferences(ctx context.Context, q rowQuerier, did syntax.DID) ([]json.RawMessage, error) {
	list := []json.RawMessage{}
	var raw string
	err := q.QueryRow(ctx, `select value from preference where did = $1`, did).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read preferences of %s: %w", did, err)
	}
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		return nil, fmt.Errorf("stored preferences of %s: %w", did, err)
	}
	return list, nil
}

// keepPreferences replaces them. Who does not see personal details does not lose them either.
func (s *Server) keepPreferences(ctx context.Context, did syntax.DID, list []json.RawMessage, whole bool) error {
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if !whole {
			// One who writes the details waits for one who keeps them.
			if _, err := tx.Exec(ctx, `select from preference where did = $1 for update`, did); err != nil {
				return err
			}
			old, err := readPreferences(ctx, tx, did)
			if err != nil {
				return err
			}
			for _, p := range old {
				if preferenceType(p) == personalDetails {
					list = append(list, p)
				}
			}
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		const set = `insert into preference (did, value) values ($1, $2) on conflict (did) do update set value = excluded.value`
		_, err = tx.Exec(ctx, set, did, string(raw))
		return err
	})
	if err != nil {
		return fmt.Errorf("keep preferences of %s: %w", did, err)
	}
	return nil
}
