package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

const lookupsAtOnce = 64

// foreignHandle checks a handle outside this server's domains: it must resolve to the account.
func (s *Server) foreignHandle(ctx context.Context, raw string, did syntax.DID) (string, error) {
	h, err := syntax.ParseHandle(raw)
	if err != nil {
		return "", refused("InvalidHandle", "%q is not a handle", raw)
	}
	h = h.Normalize()
	named, err := s.lookUpHandle(ctx, h)
	if err != nil {
		return "", err
	}
	if named != did {
		return "", refused("InvalidHandle", "%s names %s, not %s; set the TXT record _atproto.%s to did=%s, or serve it at https://%s/.well-known/atproto-did",
			h, named, did, h, did, h)
	}
	return h.String(), nil
}

// lookUpHandle asks the network for a handle's DID.
func (s *Server) lookUpHandle(ctx context.Context, h syntax.Handle) (syntax.DID, error) {
	if s.resolve == nil {
		return "", refused("HandleNotFound", "handles outside of this server's domains are not looked up here")
	}
	select { // each may wait for a stranger's server
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	default:
		return "", xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "too many handles are being looked up").After(time.Second)
	}
	did, err := s.resolve(ctx, h)
	switch {
	case err == nil:
		return did, nil
	case errors.Is(err, indigo.ErrHandleNotFound):
		return "", refused("HandleNotFound", "neither the TXT record _atproto.%s nor https://%s/.well-known/atproto-did names a DID", h, h)
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	s.log.Debug("handle not resolved", "error", err)
	return "", xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameUpstreamFailure, "%s cannot be looked up now", h)
}

// updateHandle gives the signed-in account another handle.
func (s *Server) updateHandle(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if err := a.mayIdentity("handle"); err != nil {
		return nil, err
	}
	var in struct {
		Handle string `json:"handle"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if err := a.Account.mustBeOwned(); err != nil {
		return nil, err
	}
	if err := s.limitAccount(c, limitUpdateHandle, a.Account.DID, 1); err != nil {
		return nil, err
	}
	return nil, s.changeHandle(c.Context(), a.Account, in.Handle)
}

// changeHandle gives an account another handle: under a domain of this server, or one of its own that resolves to it. The handle is taken first,
// then the directory hears of it, then everybody else; a crash between is finished by housekeeping, or by the same request again.
func (s *Server) changeHandle(ctx context.Context, acc *account, raw string) error {
	handle, err := s.handleFor(ctx, raw, acc.DID)
	if err != nil {
		return err
	}
	if acc.Status == statusActive {
		if err := s.mayDeclare(ctx, acc.DID, handle); err != nil {
			return err
		}
	}
	if err := s.takeHandle(ctx, acc, handle); err != nil {
		return err
	}
	if acc.Status != statusActive {
		return nil // its document is another host's affair still
	}
	crash.Point("pds/handle/taken")
	return s.declareHandle(ctx, acc.DID)
}

// mayDeclare says beforehand what would keep the document from naming the handle.
func (s *Server) mayDeclare(ctx context.Context, did syntax.DID, handle string) error {
	if did.Method() == "plc" {
		last, err := s.lastOperation(ctx, did)
		if err != nil {
			return err
		}
		if !slices.Contains(last.RotationKeys, s.rotationDID) && !slices.Contains(last.AlsoKnownAs, "at://"+handle) {
			return errNotOurs(did)
		}
		return nil
	}
	id, err := s.freshIdentity(ctx, did)
	if err != nil {
		return err
	}
	if declared, err := id.DeclaredHandle(); err != nil || declared.String() != handle {
		return refused("IncompatibleDidDoc", "put at://%s first in alsoKnownAs of the document%s, then send the same request again", handle, whereWeb(did))
	}
	return nil
}

func (s *Server) takeHandle(ctx context.Context, acc *account, handle string) error {
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const set = `update account set handle = $2 where did = $1`
		if _, err := tx.Exec(ctx, set, acc.DID, handle); err != nil {
			return takenError(err)
		}
		var reserved bool
		if err := tx.QueryRow(ctx, `select exists (select from signup where handle = $1)`, handle).Scan(&reserved); err != nil {
			return err
		}
		if reserved {
			return errHandleTaken()
		}
		if acc.Status != statusActive {
			return nil
		}
		const note = `insert into handle_change (did, since) values ($1, $2) on conflict (did) do update set since = excluded.since`
		_, err := tx.Exec(ctx, note, acc.DID, s.clock.Now())
		return err
	})
	if err != nil {
		return wrapUnlessShown(err, "take handle for %s", acc.DID)
	}
	return nil
}

// declareHandle brings an account's document to its handle, and tells.
func (s *Server) declareHandle(ctx context.Context, did syntax.DID) error {
	acc, err := s.findAccount(ctx, did.String())
	if err != nil {
		return err
	}
	if acc.Status != statusActive { // it may live elsewhere by now, and must name its handle anew to wake here
		if _, err := s.pool.Exec(ctx, `delete from handle_change where did = $1`, did); err != nil {
			return fmt.Errorf("give up handle change of %s: %w", did, err)
		}
		return nil
	}
	if did.Method() == "plc" {
		last, err := s.lastOperation(ctx, did)
		if err != nil {
			return err
		}
		if want := withHandle(last.AlsoKnownAs, acc.Handle); !slices.Equal(want, last.AlsoKnownAs) {
			op := last.Next()
			op.AlsoKnownAs = want
			if err := op.Sign(s.rotation); err != nil {
				return fmt.Errorf("sign operation of %s: %w", did, err)
			}
			if err := s.submit(ctx, did, op); err != nil {
				return err
			}
		}
	}
	if err := s.forget(ctx, did); err != nil {
		return err
	}
	crash.Point("pds/handle/declared")
	now := s.clock.Now()
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `delete from handle_change where did = $1`, did)
		if err != nil || tag.RowsAffected() == 0 {
			return err // told already
		}
		return tell(ctx, tx, now, &firehose.Identity{DID: did, Handle: acc.Handle, Time: eventTime(now)})
	})
	if err != nil {
		return fmt.Errorf("tell handle of %s: %w", did, err)
	}
	crash.Point("pds/handle/told")
	s.log.Info("handle changed", "did", did)
	return nil
}

const (
	changePatience = time.Minute // after which a change that stopped half-way is taken up
	changesAtOnce  = 50
)

// finishHandles takes up handle changes that stopped before everybody had heard of them.
func (s *Server) finishHandles(ctx context.Context, now time.Time) error {
	return s.finish(ctx, "handle_change", "did:", now, s.declareHandle)
}

// finish does one thing for each of the accounts in a table whose DIDs begin so. What fails waits behind all others, so that nothing that will never
// do keeps a place from what will.
func (s *Server) finish(ctx context.Context, table, begin string, now time.Time, do func(context.Context, syntax.DID) error) error {
	due := `select did from ` + table + ` where since < $1 and starts_with(did, $2) order by since limit $3`
	rows, err := s.pool.Query(ctx, due, now.Add(-changePatience), begin, changesAtOnce)
	if err != nil {
		return fmt.Errorf("find changes to finish: %w", err)
	}
	dids, err := pgx.CollectRows(rows, pgx.RowTo[syntax.DID])
	if err != nil {
		return fmt.Errorf("find changes to finish: %w", err)
	}
	var errs []error
	for _, did := range dids {
		if err := do(ctx, did); err != nil {
			_, kept := s.pool.Exec(ctx, `update `+table+` set since = $2 where did = $1`, did, now)
			errs = append(errs, err, kept)
		}
	}
	return errors.Join(errs...)
}

// resolveHandle answers for the handles of this server, and asks the network for others.
func (s *Server) resolveHandle(c *xrpc.Call) (any, error) {
	h, err := syntax.ParseHandle(c.Param("handle"))
	if err != nil {
		return nil, invalid("handle %q is malformed", c.Param("handle"))
	}
	h = h.Normalize()
	type view struct {
		DID syntax.DID `json:"did"`
	}
	acc, err := s.findAccount(c.Context(), h.String())
	if err == nil && acc.Status == statusActive { // as at /.well-known/atproto-did
		return view{acc.DID}, nil
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	for _, domain := range s.cfg.HandleDomains {
		if strings.HasSuffix(h.String(), domain) {
			return nil, refused("HandleNotFound", "no account here has the handle %s", h)
		}
	}
	did, err := s.lookUpHandle(c.Context(), h)
	if err != nil {
		return nil, err
	}
	return view{did}, nil
}
