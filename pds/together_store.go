package pds

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/wire"
	"city-sync.org/citysync/internal/repo"
)

// event is a commit's frame without its number, which the database gives.
type event struct{ before, after []byte }

// of is one of the things that a commit of a group brings.
type of[T any] struct {
	commit int32 // its place in the group, from 1 on
	it     T
}

func commitOf[T any](o of[T]) int32 { return o.commit }

// storeTogether stores the commits of different repositories in one call of the database, which is one transaction. errStale means that it
// refused them.
func (s *Server) storeTogether(ctx context.Context, group []*made) error {
	// Every transaction locks repositories in this order.
	slices.SortFunc(group, func(a, b *made) int { return strings.Compare(string(a.did), string(b.did)) })
	now := s.clock.Now()
	events := make([]event, len(group))
	for i, m := range group {
		var err error
		if events[i].before, events[i].after, err = firehose.Split(commitEvent(m.commit, now)); err != nil {
			return fmt.Errorf("event of commit %s of %s: %w", m.commit.Head.Rev, m.did, err)
		}
	}
	args := callArguments.Get().(*wire.Arguments) //nolint:forcetypeassert // the pool gives nothing else
	defer callArguments.Put(args)
	storeArguments(args, group, events, now)
	crash.Point("pds/together/before-commit")
	last, err := s.callStore(ctx, args)
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) && !strings.HasPrefix(refusal.Code, "57") { // 57…: the server goes down, and says nothing of the write
		return errStale
	}
	crash.Point("pds/together/after-commit")
	if err != nil {
		return err
	}
	frames := make([]firehose.Frame, len(events))
	for i, e := range events {
		seq := last - int64(len(events)-1-i)
		frames[i] = firehose.Frame{Seq: seq, Bytes: firehose.Join(e.before, seq, e.after)}
	}
	s.spread(frames)
	return nil
}

var callArguments = sync.Pool{New: func() any { return new(wire.Arguments) }}

// storeArguments are those of store_commits, in their order.
func storeArguments(args *wire.Arguments, group []*made, events []event, now time.Time) {
	changes, blocks, unreachable := 0, 0, 0
	for _, m := range group {
		changes, blocks, unreachable = changes+len(m.changes), blocks+len(m.commit.New), unreachable+len(m.commit.Unreachable)
	}
	records, fresh, gone := make([]of[change], 0, changes), make([]of[repo.Block], 0, blocks), make([]of[cid.Cid], 0, unreachable)
	for i, m := range group {
		commit := int32(i + 1) // at most groupCommits
		for _, ch := range m.changes {
			records = append(records, of[change]{commit, ch})
		}
		for _, b := range m.commit.New {
			fresh = append(fresh, of[repo.Block]{commit, b})
		}
		for _, id := range m.commit.Unreachable { // the former commit among them
			gone = append(gone, of[cid.Cid]{commit, id})
		}
	}
	args.Reset()
	wire.TextsOf(args, group, func(m *made) string { return m.did.String() })
	wire.ByteasOf(args, group, func(m *made) string { return m.commit.Head.Commit.KeyString() })
	wire.ByteasOf(args, group, func(m *made) string { return m.commit.Head.Data.KeyString() })
	wire.TextsOf(args, group, func(m *made) string { return m.commit.Head.Rev })
	wire.ByteasOf(args, group, func(m *made) string { return m.before.head.Commit.KeyString() })
	wire.ByteasOf(args, group, func(m *made) []byte { return m.before.key })
	wire.TextsOf(args, group, func(m *made) string { return m.session })
	wire.Int4sOf(args, records, commitOf)
	wire.TextsOf(args, records, func(r of[change]) string { return r.it.Collection })
	wire.TextsOf(args, records, func(r of[change]) string { return r.it.RKey })
	wire.ByteasOf(args, records, func(r of[change]) string { return r.it.Record.CID.KeyString() })
	wire.Int4sOf(args, gone, commitOf)
	wire.ByteasOf(args, gone, func(g of[cid.Cid]) string { return g.it.KeyString() })
	wire.Int4sOf(args, fresh, commitOf)
	wire.ByteasOf(args, fresh, func(b of[repo.Block]) string { return b.it.CID.KeyString() })
	wire.ByteasOf(args, fresh, func(b of[repo.Block]) []byte { return b.it.Data })
	wire.ByteasOf(args, events, func(e event) []byte { return e.before })
	wire.ByteasOf(args, events, func(e event) []byte { return e.after })
	args.Timestamptz(now)
}

// callStore calls store_commits, and answers with the number of the last event.
func (s *Server) callStore(ctx context.Context, args *wire.Arguments) (last int64, err error) {
	const name, store = "store_commits", `select store_commits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)`
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer pooled.Release()
	statement, err := pooled.Conn().Prepare(ctx, name, store) // once for a connection
	if err != nil {
		return 0, err
	}
	conn := pooled.Conn().PgConn()
	// The deadline alone, since to watch a context takes a goroutine.
	deadline, _ := ctx.Deadline()
	if err := conn.Conn().SetDeadline(deadline); err != nil {
		return 0, err
	}
	p := conn.StartPipeline(context.Background())
	defer func() {
		err = errors.Join(err, p.Close()) // the commit is known of when the pipeline ends
		_ = conn.Conn().SetDeadline(time.Time{})
	}()
	args.Queue(conn, p, statement)
	p.SendPipelineSync()
	if err := wire.Flush(conn, p); err != nil {
		return 0, err
	}
	answer, err := wire.Answer(p)
	if err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(answer.Rows[0][0])), nil
}
