package index

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// Cursor is the last event of host whose effects are saved; 0 before the first.
func (x *Index) Cursor(ctx context.Context, host string) (int64, error) {
	var seq int64
	err := x.pool.QueryRow(ctx, "select seq from source where host = @host", pgx.NamedArgs{"host": host}).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cursor of %s: %w", host, err)
	}
	return seq, nil
}

// Repo is the state of a repository as saved; zero when it was never seen.
func (x *Index) Repo(ctx context.Context, did syntax.DID) (repo.State, error) {
	var rev, data string
	err := x.pool.QueryRow(ctx, "select rev, data from repo where did = @did", pgx.NamedArgs{"did": did.String()}).Scan(&rev, &data)
	if errors.Is(err, pgx.ErrNoRows) {
		return repo.State{}, nil
	}
	if err != nil {
		return repo.State{}, fmt.Errorf("repository %s: %w", did, err)
	}
	c, err := cid.Decode(data)
	if err != nil {
		return repo.State{}, fmt.Errorf("repository %s: %w", did, err)
	}
	return repo.State{Rev: rev, Data: c}, nil
}

// Commit saves a verified commit. One that is not newer than what is held changes nothing; another commit under the rev that is held is an
// equivocation of its author: the first one stands and the second is counted.
func (x *Index) Commit(ctx context.Context, host string, seq int64, v *repo.Verified) error {
	return x.tx(ctx, host, seq, func(tx pgx.Tx) error {
		stand, err := x.standing(ctx, tx, v.DID, v.Rev, v.Commit)
		if err != nil || !stand {
			return err
		}
		visible, err := shown(ctx, tx, v.DID)
		if err != nil {
			return err
		}
		for _, op := range v.Ops {
			ch := change{did: v.DID.String(), coll: op.Collection, rkey: op.RKey, rev: v.Rev, hidden: !visible}
			if op.Action != repo.Delete {
				ch.cid, ch.cbor = op.CID.String(), op.Record
			}
			if err := x.save(ctx, tx, ch); err != nil {
				return err
			}
		}
		return saveRepo(ctx, tx, v.DID, host, v.Rev, v.Data, v.Commit)
	})
}

// standing says whether a commit may be saved beside what is held of its repository.
func (x *Index) standing(ctx context.Context, tx pgx.Tx, did syntax.DID, rev string, commit cid.Cid) (bool, error) {
	var other bool
	err := tx.QueryRow(ctx, "select commit_cid is not null and commit_cid <> @commit from repo where did = @did and rev = @rev",
		pgx.NamedArgs{"did": did.String(), "rev": rev, "commit": commit.String()}).Scan(&other)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("repository %s: %w", did, err)
	case other:
		x.log.Warn("equivocation", "did", did, "rev", rev, "commit", commit)
		return false, x.drop(ctx, tx, did.String(), "Equivocation")
	}
	return true, nil
}

// Snapshot saves a whole repository after a gap or at first sight: what it no longer holds was deleted meanwhile. A host gives no repository
// of an account that is not active, so the account is.
func (x *Index) Snapshot(ctx context.Context, host string, seq int64, did syntax.DID, full *repo.Full, _ func(path string) ([]byte, error)) error {
	return x.tx(ctx, host, seq, func(tx pgx.Tx) error {
		stand, err := x.standing(ctx, tx, did, full.Rev, full.Commit)
		if err != nil || !stand {
			return err
		}
		if err := appear(ctx, tx, did); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "select coll || '/' || rkey, cid from record where did = @did and cid is not null", pgx.NamedArgs{"did": did.String()})
		if err != nil {
			return fmt.Errorf("records of %s: %w", did, err)
		}
		gone := map[string]string{}
		var path, have string
		if _, err := pgx.ForEachRow(rows, []any{&path, &have}, func() error { gone[path] = have; return nil }); err != nil {
			return fmt.Errorf("records of %s: %w", did, err)
		}
		for r := range full.Records() {
			known := gone[r.Path] == r.CID.String()
			delete(gone, r.Path)
			if known {
				continue
			}
			if err := x.save(ctx, tx, change{did: did.String(), rev: full.Rev, cid: r.CID.String(), cbor: r.Data}.at(r.Path)); err != nil {
				return err
			}
		}
		for path := range gone {
			if err := x.save(ctx, tx, change{did: did.String(), rev: full.Rev}.at(path)); err != nil {
				return err
			}
		}
		return saveRepo(ctx, tx, did, host, full.Rev, full.Data, full.Commit)
	})
}

// Identity moves the cursor on; keys are looked up anew by the follower.
func (x *Index) Identity(ctx context.Context, host string, seq int64, _ syntax.DID) error {
	return x.tx(ctx, host, seq, func(pgx.Tx) error { return nil })
}

// Drop counts an event that the verifier refused.
func (x *Index) Drop(ctx context.Context, host string, seq int64, did syntax.DID, reason string) error {
	return x.tx(ctx, host, seq, func(tx pgx.Tx) error { return x.drop(ctx, tx, did.String(), reason) })
}

func (x *Index) drop(ctx context.Context, tx pgx.Tx, did, reason string) error {
	x.dropped.WithLabelValues(reason).Inc()
	_, err := tx.Exec(ctx, `
insert into dropped (reason, count, did, at) values (@reason, 1, @did, @at)
on conflict (reason) do update set count = dropped.count + 1, did = excluded.did, at = excluded.at`,
		pgx.NamedArgs{"reason": reason, "did": did, "at": x.clock.Now()})
	if err != nil {
		return fmt.Errorf("count dropped: %w", err)
	}
	return nil
}

// tx runs one event's effects and moves the cursor in the same transaction. seq 0 is a repository read outside the stream.
func (x *Index) tx(ctx context.Context, host string, seq int64, fn func(pgx.Tx) error) error {
	err := pg.InTx(ctx, x.pool, func(tx pgx.Tx) error {
		if err := fn(tx); err != nil {
			return fmt.Errorf("event %d of %s: %w", seq, host, err)
		}
		if seq == 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `
insert into source (host, seq, at) values (@host, @seq, @at)
on conflict (host) do update set seq = excluded.seq, at = excluded.at where source.seq < excluded.seq`,
			pgx.NamedArgs{"host": host, "seq": seq, "at": x.clock.Now()}); err != nil {
			return fmt.Errorf("cursor of %s: %w", host, err)
		}
		crash.Point("appview/event/before-commit")
		return nil
	})
	crash.Point("appview/event/after-commit")
	return err
}

// saveRepo moves a repository's state on, never back.
func saveRepo(ctx context.Context, tx pgx.Tx, did syntax.DID, host, rev string, data, commit cid.Cid) error {
	if _, err := tx.Exec(ctx, `
insert into repo (did, rev, data, commit_cid, host) values (@did, @rev, @data, @commit, @host)
on conflict (did) do update set rev = excluded.rev, data = excluded.data, commit_cid = excluded.commit_cid, host = excluded.host
where repo.rev <= excluded.rev`,
		pgx.NamedArgs{"did": did.String(), "rev": rev, "data": data.String(), "commit": commit.String(), "host": host}); err != nil {
		return fmt.Errorf("repository %s: %w", did, err)
	}
	return nil
}

// change is one operation on a record; cid "" is a deletion.
type change struct {
	did, coll, rkey, rev, cid string
	cbor                      []byte
	hidden                    bool // its account is not active: the record gets no row
}

// at names the record by its path, collection and key.
func (c change) at(path string) change {
	c.coll, c.rkey, _ = strings.Cut(path, "/")
	return c
}

// save writes the record, its version and its projection. A change older than what is stored leaves everything as it is.
func (x *Index) save(ctx context.Context, tx pgx.Tx, ch change) error {
	if _, ours := handler(ch.coll); !ours {
		return nil
	}
	now := x.clock.Now()
	args := pgx.NamedArgs{"did": ch.did, "coll": ch.coll, "rkey": ch.rkey, "rev": ch.rev, "cid": orNull(ch.cid), "cbor": ch.cbor, "now": now, "invalid": nil}
	if ch.cid != "" {
		if err := lexicons.Validate(ch.coll, ch.rkey, ch.cbor); err != nil {
			args["invalid"] = storable(bounded(strings.ToValidUTF8(err.Error(), "\ufffd"), 300))
			if err := x.drop(ctx, tx, ch.did, "InvalidRecord"); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `
insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values (@did, @coll, @rkey, @cid, @rev, @cbor, @now)
on conflict (did, coll, rkey, cid) do update set cbor = excluded.cbor where record_version.cbor is null`, args); err != nil {
			return fmt.Errorf("version of %s: %w", ch.coll, err)
		}
	}
	tag, err := tx.Exec(ctx, `
insert into record (did, coll, rkey, cid, rev, cbor, invalid, indexed) values (@did, @coll, @rkey, @cid, @rev, @cbor, @invalid, @now)
on conflict (did, coll, rkey) do update set cid = excluded.cid, rev = excluded.rev, cbor = excluded.cbor, invalid = excluded.invalid,
	edited = record.edited or coalesce(record.cid <> excluded.cid, false), indexed = excluded.indexed
where record.rev <= excluded.rev`, args)
	if err != nil {
		return fmt.Errorf("save %s of %s: %w", ch.coll, ch.did, err)
	}
	switch {
	case tag.RowsAffected() == 0:
		return nil
	case ch.cid == "" || ch.hidden || args["invalid"] != nil:
		return unproject(ctx, tx, ch.did, ch.coll, ch.rkey)
	default:
		return project(ctx, tx, Record{DID: ch.did, Coll: ch.coll, RKey: ch.rkey, CID: ch.cid, CBOR: ch.cbor})
	}
}

// bounded cuts a stranger's words to n bytes of valid UTF-8.
func bounded(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// Lag is how long ago the host's last event was saved; false before the first.
func (x *Index) Lag(ctx context.Context, host string) (time.Duration, bool, error) {
	var at time.Time
	err := x.pool.QueryRow(ctx, "select at from source where host = @host", pgx.NamedArgs{"host": host}).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("lag of %s: %w", host, err)
	}
	return x.clock.Now().Sub(at), true, nil
}
