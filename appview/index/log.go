package index

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	logInterval = 500 * time.Millisecond // between looks at the checkpoint
	logTimeout  = 30 * time.Second       // of one file
)

// errLog means that the ledger's published log contradicts itself, its key or what was read before. It is the ledger's fault, never a
// reason for us to stop: nothing is stored, the alarm stays raised.
var errLog = errors.New("the ledger's log does not hold")

// LogReader copies the city's log. It takes the log's address and key from the city's own signed record.
type LogReader struct {
	x    *Index
	city string
	http *http.Client
	log  *slog.Logger

	policyRead *tlog.Policy // the one read last, with its text
	policyText string
}

// NewLogReader reads the log of the city with that DID.
func NewLogReader(x *Index, city string, hc *http.Client, log *slog.Logger) *LogReader {
	return &LogReader{x: x, city: city, http: hc, log: log}
}

// Run reads until ctx ends. Only a failure of our own database ends it earlier.
func (l *LogReader) Run(ctx context.Context) error {
	tick := time.NewTicker(logInterval)
	defer tick.Stop()
	var said string
	for {
		err := l.read(ctx)
		var ours *storeError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &ours):
			return err
		case err == nil:
			said = ""
		case err.Error() != said: // once for each new trouble
			said = err.Error()
			l.x.dropped.WithLabelValues(reasonOf(err)).Inc()
			l.log.Warn("ledger log not read", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func reasonOf(err error) string {
	if errors.Is(err, errLog) {
		return "LogBroken"
	}
	return "LogUnreachable"
}

// storeError is a failure of our own database.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{fmt.Errorf("store the log: %w", err)}
}

// read brings our copy up to the checkpoint served now.
func (l *LogReader) read(ctx context.Context) error {
	var url, vkey string
	err := l.x.pool.QueryRow(ctx, "select log_url, log_vkey from city where did = @city and rkey = 'self'", pgx.NamedArgs{"city": l.city}).Scan(&url, &vkey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // the city has not been seen yet
	}
	if err != nil {
		return stored(err)
	}
	keys, err := l.logKeys(ctx, vkey)
	if err != nil {
		return err
	}
	if err := l.follow(ctx, url, keys); err != nil {
		return err
	}
	return errors.Join(l.published(ctx, vkey), l.cosigned(ctx, url, keys))
}

// follow extends our copy to the checkpoint, which one of the keys must have signed.
func (l *LogReader) follow(ctx context.Context, url string, keys []string) error {
	signed, found, err := l.get(ctx, url+"/checkpoint", tlog.MaxNote)
	if err != nil || !found { // an empty log has no checkpoint
		return err
	}
	head, _, err := tlog.OpenAny(signed, keys...)
	if err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	var size int64
	var root []byte
	err = l.x.pool.QueryRow(ctx, "select size, root from log_head").Scan(&size, &root)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return stored(err)
	}
	switch {
	case head.Size < size:
		return fmt.Errorf("%w: it went back from %d to %d entries", errLog, size, head.Size)
	case head.Size == size && size > 0 && string(root) != string(head.Root[:]):
		return fmt.Errorf("%w: two roots at size %d", errLog, size)
	case head.Size == size:
		return nil
	}
	return l.extend(ctx, url, size, head, signed)
}

// extend appends the entries up to the checkpoint when the tree that they make has its root; so the new log continues the old one. It
// holds one bundle at a time, however long the log is, and leaves nothing behind when anything is wrong.
func (l *LogReader) extend(ctx context.Context, url string, size int64, head tlog.Checkpoint, signed []byte) error {
	return pg.InTx(ctx, l.x.pool, func(tx pgx.Tx) error {
		var root tlog.Hash
		for size < head.Size {
			leaves, err := l.bundle(ctx, url, size, head.Size)
			if err != nil {
				return err
			}
			if root, err = add(ctx, tx, size, leaves); err != nil {
				return err
			}
			size += int64(len(leaves))
		}
		if root != head.Root {
			return fmt.Errorf("%w: the entries up to %d have another root than the checkpoint", errLog, head.Size)
		}
		_, err := tx.Exec(ctx, `
insert into log_head (size, root, note, at) values (@size, @root, @note, @at)
on conflict (one) do update set size = excluded.size, root = excluded.root, note = excluded.note, at = excluded.at`,
			pgx.NamedArgs{"size": head.Size, "root": head.Root[:], "note": string(signed), "at": l.x.clock.Now()})
		crash.Point("appview/log/before-commit")
		return stored(err)
	})
}

// bundle fetches the entries from, inclusive, to the end of their bundle or to, exclusive. There is at least one.
func (l *LogReader) bundle(ctx context.Context, url string, from, to int64) ([][]byte, error) {
	n := from / tlog.TileWidth
	t := tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: int(min(to-n*tlog.TileWidth, tlog.TileWidth))}
	raw, found, err := l.get(ctx, url+"/"+t.Path(), tlog.MaxBundle)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %s is missing", errLog, t.Path())
	}
	leaves, err := tlog.DecodeBundle(raw, t.Width)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errLog, t.Path(), err)
	}
	return leaves[from-n*tlog.TileWidth:], nil
}

// add writes leaves at the end of our copy and gives the root of the tree that they make.
func add(ctx context.Context, tx pgx.Tx, size int64, leaves [][]byte) (tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(leaves))
	batch := &pgx.Batch{}
	for i, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return tlog.Hash{}, fmt.Errorf("%w: entry %d: %w", errLog, size+int64(i), err)
		}
		if e.Seq != size+int64(i) {
			return tlog.Hash{}, fmt.Errorf("%w: entry %d says it is %d", errLog, size+int64(i), e.Seq)
		}
		hashes[i] = tlog.LeafHash(leaf)
		queueEntry(batch, e, leaf)
	}
	added, root, err := tlog.Append(size, hashes, nodes{ctx, tx})
	if err != nil {
		return root, stored(err)
	}
	first := tlog.NodeCount(size)
	for i, h := range added {
		batch.Queue("insert into log_node (idx, hash) values (@idx, @hash)", pgx.NamedArgs{"idx": first + int64(i), "hash": h[:]})
	}
	return root, stored(tx.SendBatch(ctx, batch).Close())
}

// nodes reads stored hashes from our copy.
type nodes struct {
	ctx context.Context // of the one transaction that reads
	tx  pgx.Tx
}

// ReadHashes implements tlog.Nodes.
func (n nodes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	rows, err := n.tx.Query(n.ctx, "select idx, hash from log_node where idx = any(@indexes)", pgx.NamedArgs{"indexes": indexes})
	if err != nil {
		return nil, err
	}
	at := map[int64]tlog.Hash{}
	var idx int64
	var hash []byte
	if _, err := pgx.ForEachRow(rows, []any{&idx, &hash}, func() error { at[idx] = tlog.Hash(hash); return nil }); err != nil {
		return nil, err
	}
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		h, ok := at[x]
		if !ok {
			return nil, fmt.Errorf("no stored hash %d", x)
		}
		out[i] = h
	}
	return out, nil
}

func queueEntry(batch *pgx.Batch, e *entry.Entry, leaf []byte) {
	about := aboutOf(e)
	batch.Queue(`
insert into log_entry (seq, leaf, kind, book, epoch, day, org, amount, votes, task_uri, nullifier, refers, what, subject)
values (@seq, @leaf, @kind, @book, @epoch, @day, @org, @amount, @votes, @task, @nullifier, @refers, @what, @subject)`, pgx.NamedArgs{
		"seq": e.Seq, "leaf": leaf, "kind": string(e.Kind), "book": storable(e.Book), "epoch": storable(e.Epoch), "day": storable(e.Day),
		"org": storable(e.Org.String()), "amount": e.Amount, "votes": e.Votes, "task": storable(about.task), "nullifier": e.Nullifier,
		"refers": about.refers, "what": storable(about.what), "subject": storable(about.subject)})
	causes := e.Causes
	if e.EpochOpen != nil {
		for _, o := range e.EpochOpen.Offerings {
			causes = append(causes, entry.Cause{URI: o.URI, CID: o.CID, Rev: o.Rev})
		}
	}
	for i, c := range causes {
		batch.Queue("insert into log_cause (seq, pos, uri, cid, rev) values (@seq, @pos, @uri, @cid, @rev)",
			pgx.NamedArgs{"seq": e.Seq, "pos": i, "uri": storable(c.URI), "cid": storable(c.CID), "rev": storable(c.Rev)})
	}
}

// get reads one file of the log; false when the log has none there.
func (l *LogReader) get(ctx context.Context, url string, limit int64) ([]byte, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errLog, err)
	}
	res, err := l.http.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", url, err)
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("read %s: status %d", url, res.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", url, err)
	}
	if int64(len(raw)) > limit {
		return nil, false, fmt.Errorf("%w: %s is larger than %d bytes", errLog, url, limit)
	}
	return raw, true, nil
}
