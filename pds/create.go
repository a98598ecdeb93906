package pds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

// Creation has three steps: the sign-up is committed with its DID and keys; the PLC
// directory takes the DID; one transaction makes the account, its empty repository and
// its events. Whatever stops it, the same request goes on from where it was.

type signupRequest struct {
	Handle, Password, Email, Invite, RecoveryKey string

	DID syntax.DID // a did:web that is there already; empty where one is made
}

type signup struct {
	Handle     string
	DID        syntax.DID
	Operation  *identity.Operation // the first of a did:plc; nil for a did:web
	Password   string
	Email      *string
	SigningKey []byte // sealed
}

// reserve stores the sign-up, or finds the half-made one that this request began.
func (s *Server) reserve(ctx context.Context, req signupRequest, now time.Time) (*signup, error) {
	if !s.cfg.InviteRequired {
		req.Invite = "" // none is used, so none is to be given back
	}
	half, err := s.findSignup(ctx, req.Handle)
	if err == nil {
		return s.resume(ctx, half, req)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	su, err := s.newSignup(ctx, req)
	if err != nil {
		return nil, err
	}
	var op []byte
	if su.Operation != nil {
		if op, err = json.Marshal(su.Operation); err != nil {
			return nil, fmt.Errorf("encode operation of %s: %w", su.DID, err)
		}
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if s.cfg.InviteRequired {
			if err := useInvite(ctx, tx, req.Invite); err != nil {
				return err
			}
		}
		const insert = `
			insert into signup (handle, did, operation, password, email, invite, signing_key, created)
			values (@handle, @did, @operation, @password, @email, @invite, @key, @now)`
		_, err := tx.Exec(ctx, insert, pgx.NamedArgs{
			"handle": su.Handle, "did": su.DID, "operation": op, "password": su.Password,
			"email": su.Email, "invite": orNull(req.Invite), "key": su.SigningKey, "now": now,
		})
		if err != nil {
			return takenError(err)
		}
		// After the insert: another creation of this handle has now either ended or waits.
		var did, handle, email bool
		const taken = `
			select exists (select from account where did = $1), exists (select from account where handle = $2),
				exists (select from account where email = $3)`
		if err := tx.QueryRow(ctx, taken, su.DID, su.Handle, su.Email).Scan(&did, &handle, &email); err != nil {
			return fmt.Errorf("look for handle: %w", err)
		}
		switch {
		case did:
			return errDIDTaken(su.DID)
		case handle:
			return errHandleTaken()
		case email:
			return errEmailTaken()
		}
		return nil
	})
	if err != nil {
		return nil, wrapUnlessShown(err, "reserve %s", su.DID)
	}
	crash.Point("pds/create/after-signup")
	return su, nil
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func errHandleTaken() error { return refused("HandleNotAvailable", "the handle is taken") }
func errEmailTaken() error {
	return refused("EmailNotAvailable", "another account uses this e-mail address")
}

func errDIDTaken(did syntax.DID) error {
	return refused("AlreadyHere", "%s has an account here; sign in to it", did)
}

func takenError(err error) error {
	switch {
	case uniqueViolation(err, "signup_pkey"), uniqueViolation(err, "account_handle_key"):
		return errHandleTaken()
	case uniqueViolation(err, "signup_email_key"), uniqueViolation(err, "account_email_key"):
		return errEmailTaken()
	}
	return err
}

func (s *Server) findSignup(ctx context.Context, handle string) (*signup, error) {
	const find = `select handle, did, operation, password, email, signing_key from signup where handle = $1`
	var su signup
	var op []byte
	err := s.pool.QueryRow(ctx, find, handle).Scan(&su.Handle, &su.DID, &op, &su.Password, &su.Email, &su.SigningKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("find sign-up: %w", err)
	}
	if op == nil {
		return &su, nil
	}
	su.Operation = new(identity.Operation)
	if err := json.Unmarshal(op, su.Operation); err != nil {
		return nil, fmt.Errorf("stored operation of %s: %w", su.DID, err)
	}
	return &su, nil
}

// resume gives a half-made account to those only who know its password.
func (s *Server) resume(ctx context.Context, half *signup, req signupRequest) (*signup, error) {
	same, err := s.passwords.Matches(ctx, half.Password, req.Password)
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, errHandleTaken()
	}
	if half.DID != req.DID && (half.Operation == nil || req.DID != "") {
		return nil, invalid("the creation of %s was begun with another DID", req.Handle)
	}
	if half.Operation != nil && !slices.Equal(half.Operation.RotationKeys, s.rotationKeys(req.RecoveryKey)) {
		return nil, invalid("the creation of %s was begun with another recovery key", req.Handle)
	}
	return half, nil
}

// rotationKeys are those of a DID made here, the strongest first: the account's own, the operator's for the day on which this server's is lost,
// and this server's.
func (s *Server) rotationKeys(recovery string) []string {
	var keys []string
	for _, k := range []string{recovery, s.cfg.RecoveryKey, s.rotationDID} {
		if k != "" && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (s *Server) newSignup(ctx context.Context, req signupRequest) (*signup, error) {
	hash, err := s.passwords.Hash(ctx, req.Password)
	if err != nil {
		return nil, err
	}
	key, err := atcrypto.GeneratePrivateKeyK256()
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	pub, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	su := &signup{Handle: req.Handle, DID: req.DID, Password: hash, Email: orNull(strings.ToLower(req.Email))}
	if req.DID != "" {
		su.SigningKey = s.sealer.seal(su.DID.String(), key.Bytes())
		return su, nil
	}
	creds := credentials{Handle: req.Handle, Key: pub.DIDKey(), Endpoint: s.cfg.PublicURL}
	op := creds.operation(s.rotationKeys(req.RecoveryKey))
	if err := op.Sign(s.rotation); err != nil {
		return nil, fmt.Errorf("sign first operation: %w", err)
	}
	if su.DID, err = identity.GenesisDID(op); err != nil {
		return nil, fmt.Errorf("name first operation: %w", err)
	}
	su.Operation, su.SigningKey = &op, s.sealer.seal(su.DID.String(), key.Bytes())
	return su, nil
}

// announce hands the first operation to the PLC directory. Submitting it again is no
// error: an answer got lost, or an earlier request stopped after it. A did:web has been announced by its owner: its document must name the key
// made for this very sign-up, which only who controls the document can have put there.
func (s *Server) announce(ctx context.Context, su *signup) error {
	if su.Operation == nil {
		creds, err := s.credentialsOf(&account{DID: su.DID, Handle: su.Handle, SigningKey: su.SigningKey})
		if err != nil {
			return err
		}
		return s.checkDocument(ctx, creds)
	}
	err := s.plc.Submit(ctx, su.DID, *su.Operation)
	if err == nil {
		crash.Point("pds/create/after-plc")
		return nil
	}
	s.log.Warn("directory did not take a new DID", "did", su.DID, "error", err)
	return xrpc.Errorf(http.StatusServiceUnavailable, "DirectoryUnavailable",
		"the PLC directory did not take the new DID; send the same request again").After(5 * time.Second)
}

// genesis is the first commit of an account's repository, signed by its key.
func (s *Server) genesis(ctx context.Context, did syntax.DID, sealed []byte) (*repo.Commit, error) {
	key, err := s.signingKey(&account{DID: did, SigningKey: sealed})
	if err != nil {
		return nil, err
	}
	rev, err := s.tids.nextRev("")
	if err != nil {
		return nil, err
	}
	commit, err := repo.Apply(ctx, repo.MapBlocks{}, did, nil, nil, key, rev)
	if err != nil {
		return nil, fmt.Errorf("first commit of %s: %w", did, err)
	}
	return commit, nil
}

// enter makes the account's row.
func (su *signup) enter(ctx context.Context, tx pgx.Tx, status string, now time.Time) error {
	const enter = `
		insert into account (did, handle, email, password, status, signing_key, created)
		values (@did, @handle, @email, @password, @status, @key, @now)`
	_, err := tx.Exec(ctx, enter, pgx.NamedArgs{
		"did": su.DID, "handle": su.Handle, "email": su.Email, "password": su.Password,
		"status": status, "key": su.SigningKey, "now": now,
	})
	if uniqueViolation(err, "account_pkey") {
		return errDIDTaken(su.DID)
	}
	return takenError(err)
}

// activate makes the account, its empty repository and its first four events.
func (s *Server) activate(ctx context.Context, su *signup, now time.Time) error {
	commit, err := s.genesis(ctx, su.DID, su.SigningKey)
	if err != nil {
		return err
	}
	sync, err := syncOf(su.DID, commit.Head, commit.New[0], now)
	if err != nil {
		return err
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const leave = `delete from signup where handle = $1 and did = $2 returning invite`
		var invite *string
		err := tx.QueryRow(ctx, leave, su.Handle, su.DID).Scan(&invite)
		if errors.Is(err, pgx.ErrNoRows) {
			return errHandleTaken() // the same creation ended in another request
		}
		if err != nil {
			return err
		}
		if invite != nil {
			const note = `insert into invite_use (did, code, at) select $1, code, $3 from invite where code = $2`
			if _, err := tx.Exec(ctx, note, su.DID, *invite, now); err != nil {
				return err
			}
		}
		if err := su.enter(ctx, tx, statusActive, now); err != nil {
			return err
		}
		var batch pgx.Batch
		queueHead(&batch, su.DID, commit)
		queueBlocks(&batch, su.DID, nil, nil, commit)
		err = queueEvents(&batch, now,
			&firehose.Identity{DID: su.DID, Handle: su.Handle, Time: eventTime(now)},
			&firehose.Account{DID: su.DID, Active: true, Time: eventTime(now)},
			commitEvent(commit, now),
			sync,
		)
		if err != nil {
			return err
		}
		err = tx.SendBatch(ctx, &batch).Close()
		crash.Point("pds/create/before-commit")
		return err
	})
	if err != nil {
		return wrapUnlessShown(err, "activate %s", su.DID)
	}
	crash.Point("pds/create/after-commit")
	s.metrics.accounts.Inc()
	return nil
}

// dropSignups gives handles and invites of creations that nobody finished back.
func (s *Server) dropSignups(ctx context.Context, now time.Time) error {
	const drop = `
		with gone as (delete from signup where created < $1 returning invite),
		back as (select invite, count(*) as n from gone where invite is not null group by invite)
		update invite i set used = i.used - back.n from back where i.code = back.invite`
	if _, err := s.pool.Exec(ctx, drop, now.Add(-s.cfg.SignupWindow)); err != nil {
		return fmt.Errorf("drop half-made accounts: %w", err)
	}
	return nil
}
