package pds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

func (s *Server) statusRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Procedure("com.atproto.server.activateAccount", s.activateAccount, small)
	m.Procedure("com.atproto.server.deactivateAccount", s.deactivateAccount, small)
	m.Query("com.atproto.server.checkAccountStatus", s.checkAccountStatus)
}

// activateAccount opens an account whose DID document names this server, with what makes others take it from here.
func (s *Server) activateAccount(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	return nil, s.activateAgain(c.Context(), a.Account)
}

func (s *Server) activateAgain(ctx context.Context, acc *account) error {
	switch acc.Status {
	case statusActive:
		return nil
	case statusDeactivated:
	default:
		return acc.mustBeActive()
	}
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return err
	}
	if err := s.checkDocument(ctx, creds); err != nil {
		return err
	}
	return s.reopen(ctx, acc)
}

// locked runs fn under the lock of a repository, with its head and its account's status.
func (s *Server) locked(ctx context.Context, did syntax.DID, fn func(tx pgx.Tx, head repo.Head, status string) error) error {
	leave, err := s.queue.enter(ctx, did)
	if err != nil {
		return err
	}
	defer leave()
	const lock = `select commit_cid, data_cid, rev from repo where did = $1 for update`
	const owner = `select status from account where did = $1 for update`
	return pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var head repo.Head
		var commit, data []byte
		var status string
		err := tx.QueryRow(ctx, lock, did).Scan(&commit, &data, &head.Rev)
		if errors.Is(err, pgx.ErrNoRows) {
			return errRepoNotFound(did.String())
		}
		if err != nil {
			return fmt.Errorf("lock %s: %w", did, err)
		}
		if err := tx.QueryRow(ctx, owner, did).Scan(&status); err != nil {
			return fmt.Errorf("lock account %s: %w", did, err)
		}
		if err := castCIDs(commit, &head.Commit, data, &head.Data); err != nil {
			return err
		}
		return fn(tx, head, status)
	})
}

// reopen makes a deactivated account active. One that has moved in announces its identity, its status, our commit above the last one of its
// former host, and the state that begins with it: signed with the key that its document now names.
func (s *Server) reopen(ctx context.Context, acc *account) error {
	now := s.clock.Now()
	err := s.locked(ctx, acc.DID, func(tx pgx.Tx, head repo.Head, status string) error {
		if status == statusActive {
			return nil
		}
		if status != statusDeactivated {
			return (&account{DID: acc.DID, Status: status}).mustBeActive()
		}
		if _, err := tx.Exec(ctx, `update account set status = 'active' where did = $1`, acc.DID); err != nil {
			return fmt.Errorf("open %s: %w", acc.DID, err)
		}
		if _, err := tx.Exec(ctx, `delete from departure where did = $1`, acc.DID); err != nil {
			return fmt.Errorf("open %s: %w", acc.DID, err)
		}
		commit, err := s.storedBlock(ctx, tx, acc.DID, head.Commit)
		if err != nil {
			return err
		}
		events := []firehose.Event{
			&firehose.Identity{DID: acc.DID, Handle: acc.Handle, Time: eventTime(now)},
			&firehose.Account{DID: acc.DID, Active: true, Time: eventTime(now)},
		}
		arrived, err := s.endArrival(ctx, tx, acc.DID, head, commit, now)
		if err != nil {
			return err
		}
		if arrived != nil {
			events = append(events, arrived)
		}
		sync, err := syncOf(acc.DID, head, commit, now)
		if err != nil {
			return err
		}
		err = tell(ctx, tx, now, append(events, sync)...)
		crash.Point("pds/activate/before-commit")
		return err
	})
	if err != nil {
		return wrapUnlessShown(err, "open %s", acc.DID)
	}
	crash.Point("pds/activate/after-commit")
	s.log.Info("account activated", "did", acc.DID)
	return nil
}

func (s *Server) storedBlock(ctx context.Context, q querier, did syntax.DID, c cid.Cid) (repo.Block, error) {
	var data []byte
	if err := q.QueryRow(ctx, `select bytes from block where did = $1 and cid = $2`, did, c.Bytes()).Scan(&data); err != nil {
		return repo.Block{}, fmt.Errorf("block %s of %s: %w", c, did, err)
	}
	return repo.Block{CID: c, Data: data}, nil
}

// endArrival is the event of the commit that was written when the repository came, nil for an account that did not move in. That commit changed
// nothing, so the tree before it is its own.
func (s *Server) endArrival(ctx context.Context, tx pgx.Tx, did syntax.DID, head repo.Head, commit repo.Block, now time.Time) (firehose.Event, error) {
	var since *string
	err := tx.QueryRow(ctx, `delete from arrival where did = $1 returning since`, did).Scan(&since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("end arrival of %s: %w", did, err)
	}
	ev := &firehose.Commit{DID: did, Commit: head.Commit, Rev: head.Rev, Time: eventTime(now)}
	if since != nil {
		ev.Since, ev.PrevData = *since, &head.Data
	}
	root, err := s.storedBlock(ctx, tx, did, head.Data)
	if err != nil {
		return nil, err
	}
	ev.Blocks, err = carOf(head.Commit, commit, root)
	return ev, err
}

func carOf(root cid.Cid, blocks ...repo.Block) ([]byte, error) {
	var car bytes.Buffer
	err := repo.WriteCAR(&car, root, func(yield func(repo.Block) bool) {
		for _, b := range blocks {
			if !yield(b) {
				return
			}
		}
	})
	return car.Bytes(), err
}

// syncOf states where a repository stands: a CAR of the commit alone.
func syncOf(did syntax.DID, head repo.Head, commit repo.Block, now time.Time) (*firehose.Sync, error) {
	car, err := carOf(head.Commit, commit)
	return &firehose.Sync{DID: did, Rev: head.Rev, Blocks: car, Time: eventTime(now)}, err
}

// deactivateAccount closes an account until it is activated again. With deleteAfter it is deleted then, and never without.
func (s *Server) deactivateAccount(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		DeleteAfter string `json:"deleteAfter"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	now := s.clock.Now()
	var after *time.Time
	if in.DeleteAfter != "" {
		at, err := syntax.ParseDatetime(in.DeleteAfter)
		if err != nil {
			return nil, invalid("deleteAfter %q is not a time", in.DeleteAfter)
		}
		t := at.Time()
		if !t.After(now) {
			return nil, invalid("deleteAfter has passed; deleteAccount deletes at once")
		}
		after = &t
	}
	return nil, s.deactivate(c.Context(), a.Account.DID, after, now)
}

func (s *Server) deactivate(ctx context.Context, did syntax.DID, after *time.Time, now time.Time) error {
	err := s.locked(ctx, did, func(tx pgx.Tx, _ repo.Head, status string) error {
		if status != statusActive && status != statusDeactivated {
			return (&account{DID: did, Status: status}).mustBeActive()
		}
		if _, err := tx.Exec(ctx, `delete from departure where did = $1`, did); err != nil {
			return err
		}
		if after != nil {
			if _, err := tx.Exec(ctx, `insert into departure (did, delete_after) values ($1, $2)`, did, *after); err != nil {
				return err
			}
		}
		if status == statusDeactivated {
			return nil
		}
		if _, err := tx.Exec(ctx, `update account set status = 'deactivated' where did = $1`, did); err != nil {
			return err
		}
		return tell(ctx, tx, now, &firehose.Account{DID: did, Active: false, Status: statusDeactivated, Time: eventTime(now)})
	})
	if err != nil {
		return wrapUnlessShown(err, "deactivate %s", did)
	}
	crash.Point("pds/deactivate/after-commit")
	s.log.Info("account deactivated", "did", did)
	return nil
}

// sweepMoves is the part of housekeeping that has to do with coming, going and keys.
func (s *Server) sweepMoves(ctx context.Context, now time.Time) error {
	return errors.Join(s.dropImports(ctx, now), s.deleteDeparted(ctx, now), s.finishHandles(ctx, now), s.finishKeys(ctx, now), s.sealer.refresh())
}

// departuresAtOnce bounds one round of housekeeping.
const departuresAtOnce = 100

// deleteDeparted deletes the accounts whose owners asked for it by a date that has come.
func (s *Server) deleteDeparted(ctx context.Context, now time.Time) error {
	const due = `
		select d.did from departure d join account a using (did)
		where d.delete_after <= $1 and a.status = 'deactivated' order by d.delete_after limit $2`
	rows, err := s.pool.Query(ctx, due, now, departuresAtOnce)
	if err != nil {
		return fmt.Errorf("find departed accounts: %w", err)
	}
	dids, err := pgx.CollectRows(rows, pgx.RowTo[syntax.DID])
	if err != nil {
		return fmt.Errorf("find departed accounts: %w", err)
	}
	var errs []error
	for _, did := range dids {
		errs = append(errs, s.deleteDue(ctx, did, now))
	}
	return errors.Join(errs...)
}

type accountStatus struct {
	Activated     bool   `json:"activated"`
	ValidDID      bool   `json:"validDid"`
	RepoCommit    string `json:"repoCommit"`
	RepoRev       string `json:"repoRev"`
	RepoBlocks    int64  `json:"repoBlocks"`
	Records       int64  `json:"indexedRecords"`
	PrivateState  int64  `json:"privateStateValues"`
	ExpectedBlobs int64  `json:"expectedBlobs"`
	ImportedBlobs int64  `json:"importedBlobs"`
}

// checkAccountStatus tells who moves how much has come, and whether the DID document is ready.
func (s *Server) checkAccountStatus(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	ctx, acc := c.Context(), a.Account
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return nil, err
	}
	docErr := s.checkDocument(ctx, creds)
	var shown *xrpc.Error
	if docErr != nil && !errors.As(docErr, &shown) {
		return nil, docErr
	}
	out := accountStatus{Activated: acc.Status == statusActive, ValidDID: docErr == nil}
	err = s.snapshot(ctx, func(tx pgx.Tx) error {
		h, err := readHead(ctx, tx, acc.DID)
		if err != nil {
			return err
		}
		out.RepoCommit, out.RepoRev = h.Commit.String(), h.Rev
		const counts = `select
			(select count(*) from block where did = $1),
			(select count(*) from record where did = $1),
			(select count(distinct cid) from record_blob where did = $1),
			(select count(distinct cid) from missing_blob where did = $1)`
		var missing int64
		if err := tx.QueryRow(ctx, counts, acc.DID).Scan(&out.RepoBlocks, &out.Records, &out.ImportedBlobs, &missing); err != nil {
			return fmt.Errorf("count what %s has: %w", acc.DID, err)
		}
		out.ExpectedBlobs = out.ImportedBlobs + missing
		return nil
	})
	return out, err
}
