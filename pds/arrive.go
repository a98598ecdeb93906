package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	statusDeactivated = "deactivated"
	createAccountNSID = "com.atproto.server.createAccount"
)

// An account comes with a DID of its own in one of two ways. From another host it is let go by a service token, which that host signs for its
// owner: it arrives deactivated, takes its repository and blobs along, and is activated once its DID document names this server. A did:web that
// is nobody's account yet signs up: the first request makes its key and says what its document must hold, the same request comes through once
// the document holds it.

func (s *Server) expectArrivals(deps Deps) {
	s.resolve = deps.ResolveHandle
	s.lookups = make(chan struct{}, lookupsAtOnce)
	s.imports = make(chan struct{}, maxImports)
	s.arrivals = xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
		Directory: deps.Directory, Audience: []string{s.cfg.ServiceDID.String(), s.cfg.ServiceDID.String() + "#atproto_pds"}, Replay: pg.NewReplay(deps.Pool), Clock: deps.Clock,
	})
}

func (s *Server) createWithDID(c *xrpc.Call, req signupRequest) (any, error) {
	if m := req.DID.Method(); m != "plc" && m != "web" {
		return nil, refused("UnresolvableDid", "accounts have a did:plc or a did:web here")
	}
	if _, ok := c.Bearer(); !ok && req.DID.Method() == "web" {
		return s.signUp(c.Context(), req)
	}
	caller, err := s.arrivals.Caller(c)
	if err != nil {
		return nil, err
	}
	if caller != req.DID {
		return nil, xrpc.Errorf(http.StatusUnauthorized, "AuthenticationRequired", "the service token is of %s, not of %s", caller, req.DID)
	}
	ctx, now := c.Context(), s.clock.Now()
	acc, err := s.arrive(ctx, req, now)
	if err != nil {
		return nil, err
	}
	tokens, err := s.openSession(ctx, acc.DID, nil, now)
	if err != nil {
		return nil, err
	}
	s.log.Info("account arriving", "did", acc.DID)
	return s.viewSession(ctx, acc, tokens), nil
}

// handleFor is the handle of a sign-up: under a domain of this server or, for who brings a DID, any that resolves to it.
func (s *Server) handleFor(ctx context.Context, raw string, did syntax.DID) (string, error) {
	handle, err := s.cfg.ownHandle(raw)
	if did == "" || !isNamed(err, "UnsupportedDomain") {
		return handle, err
	}
	return s.foreignHandle(ctx, raw, did)
}

func isNamed(err error, name string) bool {
	var shown *xrpc.Error
	return errors.As(err, &shown) && shown.Name == name
}

// arrive makes a deactivated account with an empty repository and no event: nobody hears of it before it is active. The same request with the
// same password finds what it made.
func (s *Server) arrive(ctx context.Context, req signupRequest, now time.Time) (*account, error) {
	acc, err := s.findAccount(ctx, req.DID.String())
	if err == nil {
		return acc, s.sameArrival(ctx, acc, req)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	su, err := s.newSignup(ctx, req)
	if err != nil {
		return nil, err
	}
	commit, err := s.genesis(ctx, su.DID, su.SigningKey)
	if err != nil {
		return nil, err
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if s.cfg.InviteRequired {
			if err := useInvite(ctx, tx, req.Invite); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `insert into invite_use (did, code, at) values ($1, $2, $3)`, su.DID, req.Invite, now); err != nil {
				return fmt.Errorf("note invite: %w", err)
			}
		}
		if err := su.enter(ctx, tx, statusDeactivated, now); err != nil {
			return err
		}
		var reserved bool
		const half = `select exists (select from signup where handle = $1)`
		if err := tx.QueryRow(ctx, half, su.Handle).Scan(&reserved); err != nil {
			return fmt.Errorf("look for sign-up: %w", err)
		}
		if reserved {
			return errHandleTaken()
		}
		if _, err := tx.Exec(ctx, `insert into arrival (did) values ($1)`, su.DID); err != nil {
			return fmt.Errorf("note arrival: %w", err)
		}
		var batch pgx.Batch
		queueHead(&batch, su.DID, commit)
		queueBlocks(&batch, su.DID, nil, nil, commit)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return nil, wrapUnlessShown(err, "arrival of %s", req.DID)
	}
	crash.Point("pds/arrive/after-commit")
	return s.findAccount(ctx, req.DID.String())
}

func (s *Server) sameArrival(ctx context.Context, acc *account, req signupRequest) error {
	var arriving bool
	if err := s.pool.QueryRow(ctx, `select exists (select from arrival where did = $1)`, acc.DID).Scan(&arriving); err != nil {
		return fmt.Errorf("look for arrival of %s: %w", acc.DID, err)
	}
	same, err := s.passwords.Matches(ctx, acc.Password, req.Password)
	if err != nil {
		return err
	}
	if !arriving || !same || acc.Handle != req.Handle {
		return errDIDTaken(acc.DID)
	}
	return nil
}
