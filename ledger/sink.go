package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// The intake takes verified commits from the followers. What a commit brings, what follows from it, the repository's state and the
// cursor are one command of the sequencer and so one transaction: after a crash either all of it stands or none.
type intake struct {
	cfg     Config
	seq     *sequencer
	store   *store
	clock   clock.Clock
	log     *slog.Logger
	metrics *metrics

	cosigned func() (size int64, bound bool) // how far a quorum has cosigned, where one is asked for
}

// A change is what a commit says about one path that concerns the ledger.
type change struct {
	fact
	deleted bool
	invalid error // the record is not what its collection asks for
}

// relevant are the collections that the ledger reads. Everything else only moves the repository's state on.
var relevant = []string{
	lexicons.ActorCity, lexicons.CatalogRuleSet, lexicons.CatalogEntry, lexicons.CatalogEntryStatus,
	lexicons.GovDecision, lexicons.GovParameterSet, lexicons.RegistryAccreditation,
	lexicons.WorkTask, lexicons.WorkTaskStatus, lexicons.WorkClaim, lexicons.WorkProof, lexicons.WorkVerification,
	lexicons.OfferOffering, lexicons.OfferOfferingStatus, lexicons.GovDispute, lexicons.GovResolution,
}

// Cursor implements follow.Sink.
func (in *intake) Cursor(ctx context.Context, host string) (int64, error) {
	var seq int64
	err := in.store.pool.QueryRow(ctx, `select seq from source_cursor where host = $1`, host).Scan(&seq)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("cursor of %s: %w", host, err)
	}
	return seq, nil
}

// Repo implements follow.Sink.
func (in *intake) Repo(ctx context.Context, did syntax.DID) (repo.State, error) {
	return repoState(ctx, in.store.pool, did)
}

func repoState(ctx context.Context, q querier, did syntax.DID) (repo.State, error) {
	var rev string
	var raw []byte
	err := q.QueryRow(ctx, `select rev, data from repo_state where did = $1`, did.String()).Scan(&rev, &raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return repo.State{}, nil
	}
	if err != nil {
		return repo.State{}, fmt.Errorf("state of repository %s: %w", did, err)
	}
	data, err := cid.Cast(raw)
	if err != nil {
		return repo.State{}, fmt.Errorf("state of repository %s: %w", did, err)
	}
	return repo.State{Rev: rev, Data: data}, nil
}

func putRepoState(ctx context.Context, q querier, did syntax.DID, s repo.State) error {
	const upsert = `insert into repo_state (did, rev, data) values ($1, $2, $3)
		on conflict (did) do update set rev = excluded.rev, data = excluded.data`
	if _, err := q.Exec(ctx, upsert, did.String(), s.Rev, s.Data.Bytes()); err != nil {
		return fmt.Errorf("state of repository %s: %w", did, err)
	}
	return nil
}

func putCursor(ctx context.Context, q querier, host string, seq int64) error {
	const upsert = `insert into source_cursor (host, seq) values ($1, $2)
		on conflict (host) do update set seq = excluded.seq`
	if _, err := q.Exec(ctx, upsert, host, seq); err != nil {
		return fmt.Errorf("cursor of %s: %w", host, err)
	}
	return nil
}

// Commit implements follow.Sink.
func (in *intake) Commit(ctx context.Context, host string, seq int64, v *repo.Verified) error {
	var changes []change
	for _, op := range v.Ops {
		if !slices.Contains(relevant, op.Collection) {
			continue
		}
		path := op.Collection + "/" + op.RKey
		c := change{deleted: op.Action == repo.Delete, fact: fact{
			URI: "at://" + v.DID.String() + "/" + path, DID: v.DID.String(), Coll: op.Collection, RKey: op.RKey, Rev: v.Rev, Key: v.Key,
		}}
		if !c.deleted {
			c.CID, c.CBOR = op.CID.String(), op.Record
			c.invalid = checkRecord(op.Collection, op.RKey, op.Record)
			var err error
			if c.Evidence, err = repo.ProofFromSlice(v, path); err != nil { // a verified slice has it: whatever this is, it stops nothing
				c.Evidence, c.invalid = []byte{}, fmt.Errorf("no proof of the record: %w", err)
			}
		}
		changes = append(changes, c)
	}
	return in.take(ctx, host, seq, v.DID, repo.State{Rev: v.Rev, Data: v.Data}, changes, nil)
}

// Snapshot implements follow.Sink: what stands is what the snapshot has, and what it has no more was deleted.
func (in *intake) Snapshot(
	ctx context.Context, host string, seq int64, did syntax.DID, full *repo.Full, proof func(path string) ([]byte, error),
) error {
	have, err := in.paths(ctx, did)
	if err != nil {
		return err
	}
	var changes []change
	var all []string
	for rec := range full.Records() {
		coll, rkey, _ := strings.Cut(rec.Path, "/")
		if !slices.Contains(relevant, coll) {
			continue
		}
		c := change{fact: fact{
			URI: "at://" + did.String() + "/" + rec.Path, CID: rec.CID.String(), DID: did.String(), Coll: coll, RKey: rkey,
			Rev: full.Rev, Key: full.Key, CBOR: rec.Data,
		}}
		all = append(all, c.URI)
		held := have[c.URI]
		delete(have, c.URI)
		if held == c.CID {
			continue
		}
		if c.Evidence, err = proof(rec.Path); err != nil {
			return fmt.Errorf("evidence of %s: %w", c.URI, err)
		}
		c.invalid = checkRecord(coll, rkey, rec.Data)
		changes = append(changes, c)
	}
	var gone []change
	for uri, held := range have {
		if held == "" {
			continue // deleted before
		}
		path := strings.TrimPrefix(uri, "at://"+did.String()+"/")
		coll, rkey, _ := strings.Cut(path, "/")
		gone = append(gone, change{deleted: true, fact: fact{URI: uri, DID: did.String(), Coll: coll, RKey: rkey, Rev: full.Rev}})
	}
	slices.SortFunc(gone, func(a, b change) int { return strings.Compare(a.URI, b.URI) })
	return in.take(ctx, host, seq, did, repo.State{Rev: full.Rev, Data: full.Data}, append(gone, changes...), all)
}

// paths gives what is held of a repository: uri to CID, empty where it was deleted.
func (in *intake) paths(ctx context.Context, did syntax.DID) (map[string]string, error) {
	const list = `select 'at://' || did || '/' || coll || '/' || rkey, coalesce(cid, '') from current where did = $1`
	rows, err := in.store.pool.Query(ctx, list, did.String())
	if err != nil {
		return nil, fmt.Errorf("paths of %s: %w", did, err)
	}
	have := map[string]string{}
	var uri, held string
	_, err = pgx.ForEachRow(rows, []any{&uri, &held}, func() error {
		have[uri] = held
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("paths of %s: %w", did, err)
	}
	return have, nil
}

// changesAtOnce is how many changes one command takes, so that nobody at a counter waits for a whole repository.
const changesAtOnce = 200

// take runs the changes and moves repository and cursor with the last of them; before that a crash only repeats. Whoever waits is
// woken at the end: what it waits for may come in several records. names are further arrivals to wake for.
func (in *intake) take(
	ctx context.Context, host string, seq int64, did syntax.DID, to repo.State, changes []change, names []string,
) error {
	for len(changes) > changesAtOnce {
		part := changes[:changesAtOnce]
		changes = changes[changesAtOnce:]
		_, err := in.seq.must(ctx, "intake part", func(ctx context.Context, b *batch) (any, error) {
			if gone, err := wasForgotten(ctx, b.tx, did); gone || err != nil {
				return nil, err
			}
			return nil, in.turn(b).changes(ctx, part)
		})
		if err != nil {
			return err
		}
	}
	_, err := in.seq.must(ctx, "intake", func(ctx context.Context, b *batch) (any, error) {
		if gone, err := wasForgotten(ctx, b.tx, did); gone || err != nil {
			return nil, errors.Join(err, putCursor(ctx, b.tx, host, seq))
		}
		have, err := repoState(ctx, b.tx, did)
		if err != nil {
			return nil, err
		}
		if have.Rev < to.Rev { // else it was taken before
			if err := putRepoState(ctx, b.tx, did, to); err != nil {
				return nil, err
			}
			t := in.turn(b)
			if err := t.changes(ctx, changes); err != nil {
				return nil, err
			}
			t.arrived = append(t.arrived, names...)
			if err := t.wakeAll(ctx); err != nil {
				return nil, err
			}
		}
		crash.Point("ledger/intake/before-cursor")
		return nil, putCursor(ctx, b.tx, host, seq)
	})
	crash.Point("ledger/intake/after-commit")
	return err
}

// Account implements follow.Sink. An account that is away changes nothing: what it signed stays signed.
// Of one who was forgotten here and is deleted there, not even the mark that keeps its records out is needed any more.
func (in *intake) Account(ctx context.Context, host string, seq int64, did syntax.DID, _ bool, status string) error {
	_, err := in.seq.must(ctx, "account", func(ctx context.Context, b *batch) (any, error) {
		if status == "deleted" {
			if err := unmark(ctx, b.tx, did); err != nil {
				return nil, err
			}
		}
		return nil, putCursor(ctx, b.tx, host, seq)
	})
	return err
}

// Identity implements follow.Sink.
func (in *intake) Identity(ctx context.Context, host string, seq int64, _ syntax.DID) error {
	return in.cursor(ctx, host, seq)
}

func (in *intake) cursor(ctx context.Context, host string, seq int64) error {
	_, err := in.seq.must(ctx, "cursor", func(ctx context.Context, b *batch) (any, error) {
		return nil, putCursor(ctx, b.tx, host, seq)
	})
	return err
}

// Advance implements follow.Advancer.
func (in *intake) Advance(ctx context.Context, host string, seq int64) error {
	return in.cursor(ctx, host, seq)
}

// Drop implements follow.Sink: a commit that is not what it says mints nothing and is counted by its reason.
func (in *intake) Drop(ctx context.Context, host string, seq int64, did syntax.DID, reason string) error {
	_, err := in.seq.must(ctx, "drop", func(ctx context.Context, b *batch) (any, error) {
		const count = `insert into dropped (reason, count) values ($1, 1) on conflict (reason) do update set count = dropped.count + 1`
		if _, err := b.tx.Exec(ctx, count, reason); err != nil {
			return nil, fmt.Errorf("count drop: %w", err)
		}
		return nil, putCursor(ctx, b.tx, host, seq)
	})
	if err == nil {
		in.metrics.dropped.WithLabelValues(reason).Inc()
		in.log.WarnContext(ctx, "commit dropped", "reason", reason, "did", did.String())
	}
	return err
}
