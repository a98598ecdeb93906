package pds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

// rotationPatience bounds how long a repository waits for the directory while its key changes.
const rotationPatience = 15 * time.Second

// updateSigningKey is rotateKey for an account's owner.
func (s *Server) updateSigningKey(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	ctx, did := c.Context(), a.Account.DID
	if err := s.limitAccount(c, limitUpdateHandle, did, 1); err != nil { // the directory is asked as often
		return nil, err
	}
	if err := s.rotateKey(ctx, did); err != nil {
		return nil, err
	}
	acc, err := s.findAccount(ctx, did.String())
	if err != nil {
		return nil, err
	}
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return nil, err
	}
	return struct {
		Key string `json:"signingKey"`
	}{creds.Key}, nil
}

// rotateKey gives an account another signing key. The key is stored first; then, while nobody writes to the repository, the DID document takes it
// and a commit of that key is written. A crash between is finished by housekeeping, or by the same call again, with the same key. The owner of a
// did:web is told what to put into the document, and calls again.
func (s *Server) rotateKey(ctx context.Context, did syntax.DID) error {
	acc, err := s.findAccount(ctx, did.String())
	if errors.Is(err, pgx.ErrNoRows) {
		return errRepoNotFound(did.String())
	}
	if err != nil {
		return err
	}
	if err := acc.mustBeActive(); err != nil {
		return err
	}
	key, err := atcrypto.GeneratePrivateKeyK256()
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	const note = `insert into key_change (did, next_key, since) values ($1, $2, $3) on conflict (did) do nothing`
	if _, err := s.pool.Exec(ctx, note, did, s.sealer.seal(did.String(), key.Bytes()), s.clock.Now()); err != nil {
		return fmt.Errorf("begin key change of %s: %w", did, err)
	}
	crash.Point("pds/key/noted")
	return s.changeKey(ctx, did)
}

// changeKey brings a key change that has begun to its end.
func (s *Server) changeKey(ctx context.Context, did syntax.DID) error {
	now := s.clock.Now()
	var commit *repo.Commit
	err := s.locked(ctx, did, func(tx pgx.Tx, head repo.Head, status string) error {
		acc := &account{DID: did, Status: status}
		if err := acc.mustBeActive(); err != nil {
			return err
		}
		const next = `delete from key_change where did = $1 returning next_key, (select handle from account where did = $1)`
		err := tx.QueryRow(ctx, next, did).Scan(&acc.SigningKey, &acc.Handle)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // it came to its end meanwhile
		}
		if err != nil {
			return fmt.Errorf("find next key: %w", err)
		}
		if err := s.publishKey(ctx, acc); err != nil {
			return err
		}
		crash.Point("pds/key/published")
		if _, err := tx.Exec(ctx, `update account set signing_key = $2 where did = $1`, did, acc.SigningKey); err != nil {
			return fmt.Errorf("store next key: %w", err)
		}
		commit, err = s.sealHead(ctx, tx, acc, head, now)
		return err
	})
	if err != nil {
		return wrapUnlessShown(err, "change key of %s", did)
	}
	if commit != nil {
		crash.Point("pds/key/after-commit")
		s.cacheNodes(commit)
		s.log.Info("signing key changed", "did", did)
	}
	return nil
}

// publishKey makes the account's document name its next key, or checks that its owner did.
func (s *Server) publishKey(ctx context.Context, acc *account) error {
	ctx, cancel := context.WithTimeout(ctx, rotationPatience)
	defer cancel()
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return err
	}
	if acc.DID.Method() != "plc" {
		return s.checkDocument(ctx, creds)
	}
	last, err := s.lastOperation(ctx, acc.DID)
	if err != nil {
		return err
	}
	if last.VerificationMethods[keyName] == creds.Key {
		return s.forget(ctx, acc.DID)
	}
	if !slices.Contains(last.RotationKeys, s.rotationDID) {
		return errNotOurs(acc.DID)
	}
	op := last.Next()
	op.VerificationMethods[keyName] = creds.Key
	if err := op.Sign(s.rotation); err != nil {
		return fmt.Errorf("sign operation: %w", err)
	}
	return s.submit(ctx, acc.DID, op)
}

// sealHead writes a commit that changes nothing, under the account's key as it is now, and tells that the identity changed before it.
func (s *Server) sealHead(ctx context.Context, tx pgx.Tx, acc *account, head repo.Head, now time.Time) (*repo.Commit, error) {
	key, err := s.signingKey(acc)
	if err != nil {
		return nil, err
	}
	rev, err := s.tids.nextRev(head.Rev)
	if err != nil {
		return nil, err
	}
	commit, err := repo.Apply(ctx, blocks{q: tx, did: acc.DID, cache: s.cache}, acc.DID, &head, nil, key, rev)
	if err != nil {
		return nil, err
	}
	sync, err := syncOf(acc.DID, commit.Head, commit.New[0], now)
	if err != nil {
		return nil, err
	}
	var batch pgx.Batch
	queueHead(&batch, acc.DID, commit)
	queueBlocks(&batch, acc.DID, &current{head: head}, nil, commit)
	err = queueEvents(&batch, now,
		&firehose.Identity{DID: acc.DID, Handle: acc.Handle, Time: eventTime(now)},
		commitEvent(commit, now),
		sync,
	)
	if err != nil {
		return nil, err
	}
	return commit, tx.SendBatch(ctx, &batch).Close()
}

// finishKeys takes up key changes that stopped half-way. A did:web's owner may take their time.
func (s *Server) finishKeys(ctx context.Context, now time.Time) error {
	return s.finish(ctx, "key_change", "did:plc:", now, s.changeKey)
}
