package ledger

import (
	"context"
	"fmt"
	"runtime"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// A logRow is a stored entry with what stands of its opening.
type logRow struct {
	Seq                int64
	Leaf, Hash, Sealed []byte
	Opening            bool // has a row, whose bytes may have been erased
}

// read checks a stored entry as far as that needs no state.
func (row *logRow) read(d *entry.Decoder) (e *entry.Entry, hash tlog.Hash, err error) {
	hash = tlog.LeafHash(row.Leaf)
	if string(hash[:]) != string(row.Hash) {
		return nil, hash, broken("entry %d is not what its hash says", row.Seq)
	}
	if e, err = d.Decode(row.Leaf); err != nil {
		return nil, hash, broken("entry %d: %w", row.Seq, err)
	}
	switch {
	case row.Sealed != nil:
		o, err := entry.DecodeOpening(row.Sealed)
		if err != nil {
			return nil, hash, broken("opening of entry %d: %w", row.Seq, err)
		}
		if err := e.Unseal(o); err != nil {
			return nil, hash, broken("opening of entry %d: %w", row.Seq, err)
		}
	case row.Opening:
		e.Sealed = &entry.Sealed{Erased: true}
	}
	return e, hash, nil
}

// Rows are read in pages, since a long log is no long statement, and checked in parts of pages by all processors at once.
const (
	pageRows = 5000
	partRows = 250
	partsMax = 40 // that are read or checked and not applied yet
)

// A part is rows that one goroutine checks.
type part struct {
	rows    []logRow
	entries []*entry.Entry
	hashes  []tlog.Hash
	err     error // of the entry after the last
	done    chan struct{}
}

// replay gives fn every entry in order. What needs no state (hash, decoding, opening) is done ahead of it, on all processors.
func (*store) replay(ctx context.Context, q querier, fn func(e *entry.Entry, leaf tlog.Hash) error) error {
	return replay(ctx, func(ctx context.Context, give func([]logRow) error) error { return readLog(ctx, q, give) }, fn)
}

// replay is the same over any source of rows in order.
func replay(
	ctx context.Context, source func(ctx context.Context, give func([]logRow) error) error, fn func(e *entry.Entry, leaf tlog.Hash) error,
) error {
	g, ctx := errgroup.WithContext(ctx)
	work, order := make(chan *part, partsMax), make(chan *part, partsMax)
	g.Go(func() error {
		defer close(order)
		defer close(work)
		return source(ctx, func(rows []logRow) error {
			for len(rows) > 0 {
				p := &part{rows: rows[:min(partRows, len(rows))], done: make(chan struct{})}
				rows = rows[len(p.rows):]
				for _, to := range []chan<- *part{order, work} {
					select {
					case to <- p:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			return nil
		})
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			d := entry.NewDecoder()
			for p := range work {
				p.read(d)
				close(p.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for p := range order {
			select {
			case <-p.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := p.apply(fn); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

func (p *part) read(d *entry.Decoder) {
	p.entries, p.hashes = make([]*entry.Entry, 0, len(p.rows)), make([]tlog.Hash, 0, len(p.rows))
	for i := range p.rows {
		e, hash, err := p.rows[i].read(d)
		if err != nil {
			p.err = err
			return
		}
		p.entries, p.hashes = append(p.entries, e), append(p.hashes, hash)
	}
}

func (p *part) apply(fn func(e *entry.Entry, leaf tlog.Hash) error) error {
	for i, e := range p.entries {
		if err := fn(e, p.hashes[i]); err != nil {
			return err
		}
	}
	return p.err
}

// readLog gives the log's rows, a page at a time.
func readLog(ctx context.Context, q querier, give func([]logRow) error) error {
	const page = `select e.seq, e.leaf, e.hash, o.sealed, o.seq is not null from entry e left join opening o using (seq)
		where e.seq >= $1 order by e.seq limit $2`
	for from := int64(0); ; {
		rows, err := q.Query(ctx, page, from, pageRows)
		if err != nil {
			return fmt.Errorf("read the log from %d: %w", from, err)
		}
		list := make([]logRow, 0, pageRows)
		var row logRow
		var leaf, hash, sealed pgtype.DriverBytes // parts of what the connection read, until the next row
		_, err = pgx.ForEachRow(rows, []any{&row.Seq, &leaf, &hash, &sealed, &row.Opening}, func() error {
			row.keep(leaf, hash, sealed)
			list = append(list, row)
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the log from %d: %w", from, err)
		}
		if err := give(list); err != nil {
			return err
		}
		if len(list) < pageRows {
			return nil
		}
		from = list[len(list)-1].Seq + 1
	}
}

// keep copies the bytes of a row at once.
func (row *logRow) keep(leaf, hash, sealed []byte) {
	all := make([]byte, 0, len(leaf)+len(hash)+len(sealed))
	all = append(append(append(all, leaf...), hash...), sealed...)
	row.Leaf, all = all[:len(leaf):len(leaf)], all[len(leaf):]
	row.Hash, row.Sealed = all[:len(hash):len(hash)], nil
	if sealed != nil {
		row.Sealed = all[len(hash):]
	}
}
