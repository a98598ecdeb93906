package ledger

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// A restored log that the world is ahead of takes the missing leaves from anybody's copy: a mirror of the tiles, or a witness's folder.
// The leaves are checked against a checkpoint that the log's key signed, and the rules replay them, so it does not matter whose copy it
// is. What was never in the log, nobody has.

// ErrCopy means that a copy is not of this log, not whole, or not what its checkpoint says. Nothing of it was taken.
var ErrCopy = errors.New("bad copy of the log")

// OpeningsMissing is the refusal to take entries whose sealed part the copy does not have: without it nobody knows whose they are.
type OpeningsMissing struct {
	Missing, First int64
}

func (e *OpeningsMissing) Error() string {
	return fmt.Sprintf("OpeningsMissing: %d entries from %d on are sealed and the copy has no openings of them; take the copy of a witness that has an agreement",
		e.Missing, e.First)
}

// CaughtUp says what was taken, and what cannot be had from any copy.
type CaughtUp struct {
	From, To int64
	Root     tlog.Hash
	Lost     []string
}

const (
	copyCheckpoint = "checkpoint"
	copyOpenings   = "openings.jsonl" // in a witness's folder: {"seq": …, "sealed": …}, without sealed where it was erased
	maxOpeningLine = 64 << 10
)

// Copy is a place that has a log as tlog-tiles has it, and perhaps openings.
type Copy interface {
	// Open gives a file of the copy; its error is fs.ErrNotExist where there is none.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
}

// FolderCopy is a copy on this machine.
type FolderCopy string

// Open implements Copy.
func (f FolderCopy) Open(_ context.Context, path string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), filepath.FromSlash(path)))
}

// WebCopy is a copy that somebody serves.
type WebCopy struct {
	Base string
	HTTP *http.Client
}

// Open implements Copy.
func (c WebCopy) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Base, "/")+"/"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := c.HTTP.Do(req)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode == http.StatusOK:
		return res.Body, nil
	case res.StatusCode == http.StatusNotFound:
		err = fs.ErrNotExist
	default:
		err = fmt.Errorf("answered %s", res.Status)
	}
	_ = res.Body.Close() // its status was the answer
	return nil, fmt.Errorf("%s: %w", path, err)
}

// CatchUp takes into a restored database what a copy has more of its log. The mark of the restore stays: the next start asks the world
// again.
func CatchUp(ctx context.Context, pool *pgxpool.Pool, from Copy, vkeys []string) (*CaughtUp, error) {
	out, err := catchUp(ctx, &store{pool: pool}, &reading{from: from}, vkeys)
	if err != nil {
		return nil, fmt.Errorf("catch up: %w", err)
	}
	return out, nil
}

func catchUp(ctx context.Context, st *store, r *reading, vkeys []string) (*CaughtUp, error) {
	var tz string
	const bound = `select value from meta where key = $1 and exists (select from meta where key = $2)`
	if err := st.pool.QueryRow(ctx, bound, metaTZ, metaRestored).Scan(&tz); err != nil {
		return nil, fmt.Errorf("this database was not restored: %w", err)
	}
	cp, err := r.checkpoint(ctx, vkeys)
	if err != nil {
		return nil, err
	}
	if err := r.openings(ctx); err != nil {
		return nil, err
	}
	conn, term, err := st.becomeWriter(ctx, restoreWait)
	if err != nil {
		return nil, err
	}
	s, err := reader(st, tz)
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx)) // the first error counts
		return nil, err
	}
	s.conn, s.term, s.metrics = conn, term, newMetrics(prometheus.NewRegistry())
	defer s.close()
	s.sign = func(size int64, root tlog.Hash, _ []string) (*Checkpoint, error) { // nothing is signed here
		return &Checkpoint{Size: size, Root: root}, nil
	}
	forgotten, err := st.forgetAgain(ctx, r.erased)
	if err != nil {
		return nil, err
	}
	if err := s.reload(ctx); err != nil {
		return nil, err
	}
	out := &CaughtUp{From: s.log.size(), To: cp.Size, Root: cp.Root}
	if err := r.verify(ctx, s.log, cp); err != nil {
		return nil, err
	}
	told := losses{forgotten: forgotten}
	if err := r.rows(ctx, out.From, cp.Size, func(rows []logRow) error { return s.takeBack(ctx, rows, &told) }); err != nil {
		return nil, err
	}
	out.Lost = told.list(out.To > out.From)
	return out, nil
}

// reload replays what the database has, as a start does.
func (s *sequencer) reload(ctx context.Context) error {
	h, err := s.store.head(ctx, s.conn)
	if err != nil {
		return err
	}
	if err := s.store.replay(ctx, s.store.pool, s.replayed); err != nil {
		return err
	}
	return s.checkTree(ctx, s.store.pool, h.size, h.root)
}

// takeBack writes entries that were committed before, in one transaction.
func (s *sequencer) takeBack(ctx context.Context, rows []logRow, told *losses) error {
	b := s.newBatch()
	b.tx.owns = true
	d := entry.NewDecoder()
	for i := range rows {
		e, hash, err := rows[i].read(d)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCopy, err)
		}
		if err := b.restage(e, rows[i], hash); err != nil {
			return err
		}
		if err := told.beside(ctx, b, e); err != nil {
			return err
		}
	}
	b.close()
	return s.write(ctx, b)
}

// losses are what stood beside the log and came from nobody's copy.
type losses struct {
	epochs           []string
	tills, forgotten int
}

// beside writes what stood beside an entry and follows from it.
func (l *losses) beside(ctx context.Context, b *batch, e *entry.Entry) error {
	switch {
	case e.Sealed != nil && e.Sealed.Erased:
		if _, err := b.tx.Exec(ctx, `insert into opening (seq, sealed) values ($1, null)`, e.Seq); err != nil {
			return fmt.Errorf("erased opening of entry %d: %w", e.Seq, err)
		}
	case e.Kind == entry.KindEpochOpen:
		var key [32]byte
		if _, err := rand.Read(key[:]); err != nil {
			return fmt.Errorf("key of epoch: %w", err)
		}
		l.epochs = append(l.epochs, e.Epoch)
		if _, err := b.tx.Exec(ctx, `insert into epoch_key (epoch, key) values ($1, $2) on conflict do nothing`, e.Epoch, key[:]); err != nil {
			return fmt.Errorf("key of epoch %s: %w", e.Epoch, err)
		}
	case e.Kind == entry.KindBind && e.Bind.What == entry.BindTill:
		l.tills++
		const keep = `insert into till (id, org, key, label, seq) values ($1, $2, $3, '', $4) on conflict do nothing`
		if _, err := b.tx.Exec(ctx, keep, e.Bind.Till, e.Org.String(), e.Bind.Key, e.Seq); err != nil {
			return fmt.Errorf("till %s: %w", e.Bind.Till, err)
		}
	}
	return nil
}

func (l *losses) list(any bool) []string {
	if !any {
		return nil
	}
	out := []string{
		"claims that were held and not entered: public ones come again with their records, sealed ones are gone",
		"redemption codes, vouchers' numbers and sessions of tills: they are asked for again",
		"answers kept for a retry: an act repeated under its old key is decided anew, and the log refuses what it has",
	}
	for _, e := range l.epochs {
		out = append(out, "the key of epoch "+e+": a new one was made, and claim tokens told before are only in the log")
	}
	if l.tills > 0 {
		out = append(out, fmt.Sprintf("labels and PINs of %d tills", l.tills))
	}
	if l.forgotten > 0 {
		out = append(out, fmt.Sprintf("%d people asked to be forgotten since: what the backup had of them was erased again", l.forgotten))
	}
	return out
}

// restage stages an entry as it was written, with the opening that it had.
func (b *batch) restage(e *entry.Entry, row logRow, hash tlog.Hash) error {
	if e.Seq != b.state.Size() {
		return fmt.Errorf("%w: entry says index %d, the log is at %d", ErrCopy, e.Seq, b.state.Size())
	}
	s := staged{entry: e, leaf: row.Leaf, hash: hash, opening: row.Sealed}
	if err := b.apply(&s); err != nil {
		return fmt.Errorf("%w: %w", ErrCopy, err)
	}
	b.entries = append(b.entries, s)
	return nil
}

// forgetAgain erases what a backup still has of people who were forgotten after it was made.
func (s *store) forgetAgain(ctx context.Context, erased []int64) (people int, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		const stands = `select e.seq, e.leaf, e.hash, o.sealed from entry e join opening o using (seq) where e.seq = any($1) and o.sealed is not null`
		rows, err := tx.Query(ctx, stands, erased)
		if err != nil {
			return err
		}
		var row logRow
		var accounts [][]byte
		seen := map[entry.Account]bool{{}: true}
		d := entry.NewDecoder()
		_, err = pgx.ForEachRow(rows, []any{&row.Seq, &row.Leaf, &row.Hash, &row.Sealed}, func() error {
			e, _, err := row.read(d)
			if err == nil && !seen[e.Sealed.Account] {
				seen[e.Sealed.Account] = true
				accounts = append(accounts, e.Sealed.Account[:])
			}
			return err
		})
		if err != nil {
			return err
		}
		people = len(accounts)
		if _, err := tx.Exec(ctx, `update opening set sealed = null where seq = any($1)`, erased); err != nil {
			return err
		}
		var all statements
		for _, a := range accounts {
			forgotten{account: entry.Account(a)}.write(&all)
		}
		if err := all.send(ctx, tx); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("forget again: %w", err)
	}
	return people, nil
}

// reading is one pass over a copy.
type reading struct {
	from   Copy
	alone  bool             // what has no opening counts as erased
	sealed map[int64][]byte // openings that the copy has
	erased []int64
	hashes []tlog.Hash // of the leaves that were verified
}

func (r *reading) read(ctx context.Context, path string, most int64) ([]byte, error) {
	f, err := r.from.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrCopy, path, most)
	}
	return data, nil
}

func (r *reading) checkpoint(ctx context.Context, vkeys []string) (tlog.Checkpoint, error) {
	note, err := r.read(ctx, copyCheckpoint, tlog.MaxNote)
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("its checkpoint: %w", err)
	}
	cp, _, err := tlog.OpenAny(note, vkeys...)
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("%w: %w", ErrCopy, err)
	}
	return cp, nil
}

// openings reads what the copy has of them. A later line of an entry takes the place of an earlier one; a line that a crash cut off is
// skipped, as a witness skips it.
func (r *reading) openings(ctx context.Context) error {
	r.sealed = map[int64][]byte{}
	f, err := r.from.Open(ctx, copyOpenings)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxOpeningLine)
	for lines.Scan() {
		var o struct {
			Seq    int64  `json:"seq"`
			Sealed []byte `json:"sealed"`
		}
		if json.Unmarshal(lines.Bytes(), &o) == nil {
			r.sealed[o.Seq] = o.Sealed
		}
	}
	for seq, sealed := range r.sealed {
		if sealed == nil {
			r.erased = append(r.erased, seq)
		}
	}
	return lines.Err()
}

// verify reads all leaves that are missing once, and sees that they end in the checkpoint's root and that their openings are there,
// before anything is written.
func (r *reading) verify(ctx context.Context, log *treeLog, cp tlog.Checkpoint) error {
	size := log.size()
	if cp.Size < size {
		return fmt.Errorf("%w: it has %d entries, the restored log %d", ErrCopy, cp.Size, size)
	}
	missing := OpeningsMissing{First: -1}
	d := entry.NewDecoder()
	err := r.leaves(ctx, size, cp.Size, func(seq int64, leaf []byte) error {
		e, err := d.Decode(leaf)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrCopy, seq, err)
		}
		if _, known := r.sealed[seq]; e.Commitment != nil && !known && r.alone {
			r.sealed[seq] = nil
		} else if e.Commitment != nil && !known {
			if missing.Missing++; missing.First < 0 {
				missing.First = seq
			}
		}
		r.hashes = append(r.hashes, tlog.LeafHash(leaf))
		return nil
	})
	if err != nil {
		return err
	}
	_, root, err := tlog.Append(size, r.hashes, log)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return fmt.Errorf("%w: its leaves after ours end in %s, its checkpoint says %s", ErrCopy, root, cp.Root)
	}
	if missing.Missing > 0 {
		return &missing
	}
	return nil
}

// rows gives the verified leaves with their openings, a bundle at a time.
func (r *reading) rows(ctx context.Context, from, to int64, give func([]logRow) error) error {
	var rows []logRow
	err := r.leaves(ctx, from, to, func(seq int64, leaf []byte) error {
		sealed, known := r.sealed[seq]
		hash := r.hashes[seq-from]
		rows = append(rows, logRow{Seq: seq, Leaf: leaf, Hash: hash[:], Sealed: sealed, Opening: known})
		if len(rows) < tlog.TileWidth {
			return nil
		}
		full := rows
		rows = nil
		return give(full)
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	return give(rows)
}

// leaves reads entries from and up to before to.
func (r *reading) leaves(ctx context.Context, from, to int64, fn func(seq int64, leaf []byte) error) error {
	for _, t := range tlog.Tiles(tlog.EntriesLevel, to) {
		first, end := t.Leaves()
		if end <= from {
			continue
		}
		list, err := r.bundle(ctx, t)
		if err != nil {
			return err
		}
		for i, leaf := range list {
			if seq := first + int64(i); seq >= from {
				if err := fn(seq, leaf); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// bundle reads a bundle as wide as the checkpoint needs it. A copy that has gone on has it wider.
func (r *reading) bundle(ctx context.Context, t tlog.Tile) ([][]byte, error) {
	for w := t.Width; w <= tlog.TileWidth; w++ {
		wide := tlog.Tile{Level: t.Level, N: t.N, Width: w}
		raw, err := r.read(ctx, wide.Path(), tlog.MaxBundle)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("entries from %d on: %w", t.N*tlog.TileWidth, err)
		}
		list, err := tlog.DecodeBundle(raw, w)
		if err != nil {
			return nil, fmt.Errorf("%w: entries from %d on: %w", ErrCopy, t.N*tlog.TileWidth, err)
		}
		return list[:t.Width], nil
	}
	return nil, fmt.Errorf("%w: it has no entries from %d on", ErrCopy, t.N*tlog.TileWidth)
}
