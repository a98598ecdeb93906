package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

const (
	comparedAtOnce = 200
	maxDiffers     = 2000             // bytes of what is kept about one record
	recordAhead    = 10 * time.Minute // that a record of the ledger may be seen before our copy of the log has what it is about
)

// pending notes that a record of the log is to be held against it. A new version of one that was compared is compared again.
func pending(ctx context.Context, tx pgx.Tx, r Record, columns row) error {
	var needs int64
	switch r.Coll {
	case lexicons.LedgerReceipt:
		needs = columns["seq"].(int64) + 1
	case lexicons.LedgerCheckpoint:
		needs = columns["size"].(int64)
	default:
		return nil
	}
	_, err := tx.Exec(ctx, `
insert into log_pending (did, coll, rkey, needs) values (@did, @coll, @rkey, @needs)
on conflict (did, coll, rkey) do update set needs = excluded.needs`,
		pgx.NamedArgs{"did": r.DID, "coll": r.Coll, "rkey": r.RKey, "needs": needs})
	if err != nil {
		return fmt.Errorf("note %s of %s: %w", r.Coll, r.DID, err)
	}
	return nil
}

// published holds what the ledger wrote into its repository about its log against our copy of the log: the log is what counts, and a record
// that differs from it is an alarm. Our copy has just been brought up to the log's newest checkpoint.
func (l *LogReader) published(ctx context.Context, vkey string) error {
	// Whoever is not the ledger may write such records, and they mean nothing.
	const strangers = "delete from log_pending where did not in (select ledger from city where did = @city and rkey = 'self')"
	if _, err := l.x.pool.Exec(ctx, strangers, pgx.NamedArgs{"city": l.city}); err != nil {
		return stored(err)
	}
	keys, err := l.allKeys(ctx, vkey)
	if err != nil {
		return err
	}
	for {
		n, err := l.compareSome(ctx, keys)
		if err != nil {
			return err
		}
		if n < comparedAtOnce {
			return l.countDiffering(ctx)
		}
	}
}

// allKeys are the keys that the log ever had, as far as they are known: a record of last year is signed by the key of last year.
func (l *LogReader) allKeys(ctx context.Context, vkey string) ([]string, error) {
	rows, err := l.x.pool.Query(ctx, "select subject from log_entry where kind = 'bind' and what = 'logKey' order by seq")
	if err != nil {
		return nil, stored(err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return append(keys, vkey), stored(err)
}

func (l *LogReader) compareSome(ctx context.Context, keys []string) (n int, err error) {
	err = pg.InTx(ctx, l.x.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
select p.did, p.coll, p.rkey, coalesce(r.cid, '') as cid, r.cbor from log_pending p left join record r using (did, coll, rkey)
where p.needs <= coalesce((select size from log_head), 0) or (r.indexed < @long and not exists
	(select from log_differs d where d.did = p.did and d.coll = p.coll and d.rkey = p.rkey and d.cid = r.cid))
order by p.needs limit @limit for update of p skip locked`, pgx.NamedArgs{"long": l.x.clock.Now().Add(-recordAhead), "limit": comparedAtOnce})
		if err != nil {
			return stored(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Record])
		if err != nil {
			return stored(err)
		}
		n = len(list)
		for _, r := range list {
			if err := l.compare(ctx, tx, r, keys); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// compare keeps in what a record differs from the log.
func (l *LogReader) compare(ctx context.Context, tx pgx.Tx, r Record, keys []string) error {
	args := pgx.NamedArgs{"did": r.DID, "coll": r.Coll, "rkey": r.RKey, "cid": r.CID, "seq": nil, "at": l.x.clock.Now()}
	c := &comparison{ctx: ctx, tx: tx, keys: keys}
	if r.CBOR != nil {
		var err error
		switch r.Coll {
		case lexicons.LedgerReceipt:
			err = c.receipt(r, args)
		case lexicons.LedgerCheckpoint:
			err = c.checkpoint(r)
		}
		if err != nil {
			return stored(err)
		}
	}
	done, what := "delete from log_differs where did = @did and coll = @coll and rkey = @rkey", strings.Join(c.differs, "\n")
	if what != "" {
		args["what"] = storable(bounded(strings.ToValidUTF8(what, "\ufffd"), maxDiffers))
		done = `insert into log_differs (did, coll, rkey, cid, seq, what, at) values (@did, @coll, @rkey, @cid, @seq, @what, @at)
on conflict (did, coll, rkey) do update set cid = excluded.cid, seq = excluded.seq, what = excluded.what, at = excluded.at`
		l.log.Error("a record of the ledger differs from its log", "uri", "at://"+r.DID+"/"+r.Coll+"/"+r.RKey, "cid", r.CID, "what", what)
	}
	if _, err := tx.Exec(ctx, done, args); err != nil {
		return stored(err)
	}
	if c.early {
		return nil // the log may have it later, and then it is compared
	}
	_, err := tx.Exec(ctx, `
delete from log_pending p where did = @did and coll = @coll and rkey = @rkey
	and @cid = coalesce((select r.cid from record r where r.did = p.did and r.coll = p.coll and r.rkey = p.rkey), '')`, args) // else it changed meanwhile
	return stored(err)
}

// countDiffering sets the alarm.
func (l *LogReader) countDiffering(ctx context.Context) error {
	rows, err := l.x.pool.Query(ctx, "select d.coll, count(*) from log_differs d join record r using (did, coll, rkey) where r.cid = d.cid group by d.coll")
	if err != nil {
		return stored(err)
	}
	counts := map[string]int64{lexicons.LedgerReceipt: 0, lexicons.LedgerCheckpoint: 0}
	var coll string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&coll, &n}, func() error { counts[coll] = n; return nil }); err != nil {
		return stored(err)
	}
	for _, coll := range slices.Sorted(maps.Keys(counts)) {
		l.x.differing.WithLabelValues(coll).Set(float64(counts[coll]))
	}
	return nil
}

// comparison is of one record with our copy of the log.
type comparison struct {
	ctx     context.Context // of the one transaction that reads
	tx      pgx.Tx
	keys    []string // of the log
	differs []string
	early   bool // the record is about more than our copy has
}

func (c *comparison) differ(format string, args ...any) {
	c.differs = append(c.differs, fmt.Sprintf(format, args...))
}

// entry reads an entry of our copy; nil where there is none.
func (c *comparison) entry(where string, args pgx.NamedArgs) (*entry.Entry, []byte, error) {
	var leaf []byte
	err := c.tx.QueryRow(c.ctx, "select leaf from log_entry where "+where, args).Scan(&leaf)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	e, err := entry.Decode(leaf)
	return e, leaf, err
}

func (c *comparison) receipt(r Record, args pgx.NamedArgs) error {
	v, err := decode[citysync.LedgerReceipt](r.CBOR)
	if err != nil {
		return err
	}
	args["seq"] = v.Seq
	e, leaf, err := c.entry("seq = @seq", pgx.NamedArgs{"seq": v.Seq})
	if err != nil {
		return err
	}
	if e == nil {
		c.early = true
		c.differ("the log has no entry %d", v.Seq)
		return nil
	}
	if hash := tlog.LeafHash(leaf); !bytes.Equal(v.LeafHash, hash[:]) {
		c.differ("leafHash is %x, the log has %x", []byte(v.LeafHash), hash[:])
	}
	var basis *entry.Entry
	if seq, ok := e.Basis(); ok {
		basis, _, err = c.entry("seq = @seq and seq < @before", pgx.NamedArgs{"seq": seq, "before": e.Seq})
	} else if e.Kind == entry.KindExpire {
		basis, _, err = c.entry("kind = 'epochOpen' and book = @book and epoch = @epoch and seq < @before order by seq limit 1",
			pgx.NamedArgs{"book": e.Book, "epoch": e.Epoch, "before": e.Seq})
	}
	if err != nil {
		return err
	}
	c.differs = append(c.differs, audit.ReceiptDiffers(v, e, basis)...)
	return nil
}

func (c *comparison) checkpoint(r Record) error {
	v, err := decode[citysync.LedgerCheckpoint](r.CBOR)
	if err != nil {
		return err
	}
	var size int64
	if err := c.tx.QueryRow(c.ctx, "select coalesce((select size from log_head), 0)").Scan(&size); err != nil {
		return err
	}
	if v.TreeSize > size {
		c.early = true
		c.differ("the log has %d entries, not %d", size, v.TreeSize)
		return nil
	}
	_, root, err := tlog.Append(v.TreeSize, nil, nodes{c.ctx, c.tx})
	if err != nil {
		return err
	}
	if !bytes.Equal(v.RootHash, root[:]) {
		c.differ("rootHash is %x, the log has %x", []byte(v.RootHash), root[:])
	}
	note, bad := c.note(v.Note)
	if bad != nil {
		c.differ("its note: %v", bad)
		return nil
	}
	if note.Origin != v.Origin || note.Size != v.TreeSize || !bytes.Equal(note.Root[:], v.RootHash) {
		c.differ("its note is of %s, %d entries and the root %x", note.Origin, note.Size, note.Root[:])
	}
	return c.balances(v, note)
}

// note opens a signed checkpoint. The first key of a log whose city already names a later one is not known any more: then its text counts.
func (c *comparison) note(note string) (tlog.Checkpoint, error) {
	cp, _, err := tlog.OpenAny([]byte(note), c.keys...)
	if err == nil {
		return cp, nil
	}
	text, bad := tlog.NoteText([]byte(note))
	if bad != nil {
		return cp, bad
	}
	cp, bad = tlog.ParseCheckpoint(text)
	if bad != nil {
		return cp, bad
	}
	var first *int64
	if bad := c.tx.QueryRow(c.ctx, "select min(seq) from log_entry where kind = 'bind' and what = 'logKey'").Scan(&first); bad != nil {
		return cp, bad
	}
	if first == nil || cp.Size > *first {
		return cp, err
	}
	return cp, nil
}

// balances holds what a checkpoint says of them against the newest digest that it covers.
func (c *comparison) balances(v *citysync.LedgerCheckpoint, note tlog.Checkpoint) error {
	e, _, err := c.entry("kind = 'stateDigest' and seq < @size order by seq desc limit 1", pgx.NamedArgs{"size": v.TreeSize})
	if err != nil {
		return err
	}
	seq, hash, ok, bad := note.Balances()
	switch {
	case bad != nil:
		c.differ("its note: %v", bad)
		return nil
	case e == nil && (ok || len(v.BalancesRoot) > 0):
		c.differ("it has balances, and the log has none so far")
		return nil
	case e == nil:
		return nil
	}
	want, err := entry.BalancesHash(e.StateDigest.Balances)
	if err != nil {
		return err
	}
	if !ok || seq != e.Seq || hash != want {
		c.differ("its note has not the balances of entry %d", e.Seq)
	}
	if !bytes.Equal(v.BalancesRoot, want[:]) {
		c.differ("balancesRoot is %x, entry %d gives %x", []byte(v.BalancesRoot), e.Seq, want[:])
	}
	told := map[string]int64{}
	for _, s := range v.Supply {
		if s != nil {
			told[s.Book] += s.Amount
		}
	}
	for _, b := range e.StateDigest.Balances {
		if told[b.Book] != b.Sum {
			c.differ("supply of %s is %d, entry %d says %d", b.Book, told[b.Book], e.Seq, b.Sum)
		}
		delete(told, b.Book)
	}
	for _, book := range slices.Sorted(maps.Keys(told)) {
		if told[book] != 0 {
			c.differ("supply of %s is %d, entry %d says none", book, told[book], e.Seq)
		}
	}
	return nil
}
