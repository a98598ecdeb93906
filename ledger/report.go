package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// writeReports fixes the words of the reports of epochs that were closed before this batch, and have none: a crash before one is
// published repeats the same words.
func (t *turn) writeReports(ctx context.Context) (int, error) {
	closed := t.b.state.ClosedEpochs()
	if len(closed) == 0 {
		return 0, nil
	}
	seqs := make([]int64, len(closed))
	for i, c := range closed {
		seqs[i] = c.Seq
	}
	const missing = `select leaf from entry where seq = any($1) and not exists (select from epoch_report r where r.seq = entry.seq) order by seq`
	rows, err := t.b.tx.Query(ctx, missing, seqs)
	if err != nil {
		return 0, fmt.Errorf("reports to write: %w", err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return 0, fmt.Errorf("reports to write: %w", err)
	}
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return 0, broken("closing of an epoch: %w", err)
		}
		if err := t.report(ctx, e); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// report writes one.
func (t *turn) report(ctx context.Context, e *entry.Entry) error {
	open, seq, _, ok := t.b.state.Opening(e.Book, e.Epoch)
	if !ok {
		return broken("epoch %s of %s closed and is not known", e.Epoch, e.Book)
	}
	r := reportRecord(e, &open, t.b.state.Months(e.Book))
	if err := t.reportPeople(ctx, e, r); err != nil {
		return err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return broken("report of %s: %w", e.Epoch, err)
	}
	const keep = `insert into epoch_report (seq, opened, book, epoch, record) values ($1, $2, $3, $4, $5)`
	if _, err := t.b.tx.Exec(ctx, keep, e.Seq, seq, e.Book, e.Epoch, string(raw)); err != nil {
		return fmt.Errorf("keep report of %s: %w", e.Epoch, err)
	}
	return nil
}

// reportRecord is the report as far as the log alone gives it.
func reportRecord(e *entry.Entry, open *entry.EpochOpen, months []rules.MonthFigures) map[string]any {
	c := e.EpochClose
	r := map[string]any{
		"$type": lexicons.LedgerEpochReport, "book": e.Book, "epoch": e.Epoch, "capacity": open.Capacity, "cap": open.Cap,
		"boundBy": open.BoundBy, "parameterSet": map[string]any{"uri": e.Params.URI, "cid": e.Params.CID}, "createdAt": e.At,
	}
	if open.BoundBy == entry.BoundByShare || open.BoundBy == entry.BoundByBacklog {
		r["shareBound"], r["backlogBound"] = open.ShareBound, open.BackBound
	}
	var sum rules.Flow
	var end rules.Stock
	list := []any{}
	warmUp := false
	for i := range months {
		m := &months[i]
		if m.Epoch != e.Epoch {
			continue
		}
		sum.I, sum.B, sum.X = sum.I+m.Flow.I, sum.B+m.Flow.B, sum.X+m.Flow.X
		end, warmUp = m.After, m.WarmUp
		list = append(list, monthRecord(m))
	}
	r["months"], r["issued"], r["burned"], r["expired"], r["active"], r["dormant"] = list, sum.I, sum.B, sum.X, end.A, end.D
	if warmUp {
		r["warmUp"] = true
	}
	n := int64(len(list))
	whole := rules.Indicate(sum, end, open.Capacity*n)
	whole.Backlog = entry.Ratio{Num: end.A, Den: open.Capacity}
	indicators(r, &whole, "redemptionEfficiencyBps")
	if c.Next != nil {
		r["nextCap"] = c.Next.Cap
	}
	if open.BoundBy != entry.BoundByEvent && rules.TargetsConflict(c.R) {
		r["notes"] = []any{rules.NoteTargetsConflict}
	}
	return r
}

func indicators(r map[string]any, n *rules.Indicators, efficiency string) {
	for name, ratio := range map[string]entry.Ratio{
		efficiency: n.Efficiency, "utilizationBps": n.Utilization, "issuanceToCapacityBps": n.Issuance, "dormancyRatioBps": n.Engagement,
	} {
		if value, ok := rules.Bps(ratio); ok {
			r[name] = value
		}
	}
	if value, ok := rules.Milli(n.Backlog); ok {
		r["activeStockToCapacityMilli"] = value
	}
}

func monthRecord(m *rules.MonthFigures) map[string]any {
	r := map[string]any{
		"startsAt": m.StartsAt, "endsAt": m.EndsAt, "issued": m.Flow.I, "burned": m.Flow.B, "quiet": m.Flow.Q, "reactivated": m.Flow.R,
		"expired": m.Flow.X, "active": m.After.A, "dormant": m.After.D,
	}
	indicators(r, &m.Indicators, "efficiencyBps")
	if value, ok := rules.RatBps(m.Expected); ok {
		r["expectedEfficiencyBps"] = value
	}
	if m.WarmUp {
		r["warmUp"] = true
	}
	var alarms []any
	for _, a := range m.Alarms {
		alarm := map[string]any{"indicator": a.Indicator, "mode": a.Mode, "response": a.Response, "value": a.Value}
		if a.Offering != nil {
			alarm["offering"] = map[string]any{"uri": a.Offering.URI, "cid": a.Offering.CID}
		}
		alarms = append(alarms, alarm)
	}
	if len(alarms) > 0 {
		r["alarms"] = alarms
	}
	return r
}

// otherWork is the category of work whose catalog entry names no kind.
const otherWork = "other"

// reportPeople adds how many people took part, where they are enough to be told.
func (t *turn) reportPeople(ctx context.Context, e *entry.Entry, r map[string]any) error {
	_, p, ok := t.b.state.Parameters(e.Epoch)
	if !ok {
		return broken("epoch %s has no parameters", e.Epoch)
	}
	k := max(p.KMin, 5)
	kinds := map[string]string{} // by task
	cells := map[string]*rules.Cell{}
	people := map[string]map[string]bool{} // by category
	all := map[string]bool{}
	err := t.acts(ctx, e, func(a *entry.Entry, account string) error {
		all[account] = true
		if a.Kind != entry.KindMint {
			return nil
		}
		kind, known := kinds[a.Mint.First]
		if !known {
			var err error
			if kind, err = t.kindOfWork(ctx, a.Mint.First); err != nil {
				return err
			}
			kinds[a.Mint.First] = kind
		}
		if cells[kind] == nil {
			cells[kind], people[kind] = &rules.Cell{Category: kind}, map[string]bool{}
		}
		people[kind][account] = true
		cells[kind].Mints++
		cells[kind].Issued += a.Amount
		return nil
	})
	if err != nil {
		return err
	}
	if int64(len(all)) >= k {
		r["activeParticipants"] = len(all)
	}
	var list []rules.Cell
	for kind, c := range cells {
		c.People = int64(len(people[kind]))
		list = append(list, *c)
	}
	if shown := rules.Suppress(list, k); len(shown) > 0 && len(shown) <= maxCells {
		r["byCategory"] = cellRecords(shown)
	}
	return nil
}

const maxCells = 50 // of a report; a city with more kinds of work publishes none of them

func cellRecords(cells []rules.Cell) []any {
	var list []any
	for _, c := range cells {
		if c.Suppressed {
			list = append(list, map[string]any{"category": c.Category, "suppressed": true})
			continue
		}
		list = append(list, map[string]any{"category": c.Category, "people": c.People, "mints": c.Mints, "issued": c.Issued})
	}
	return list
}

// acts gives every mint and every redemption of an epoch with whose it was. Those of people who were forgotten are nobody's. It reads in pages.
func (t *turn) acts(ctx context.Context, closing *entry.Entry, fn func(e *entry.Entry, account string) error) error {
	const size = 2000
	const page = `select e.seq, e.leaf, a.account from entry e join account_entry a using (seq)
		where e.kind in ('mint', 'burn', 'hold') and e.seq > $1 and e.seq < $2 order by e.seq limit $3`
	type row struct {
		Seq           int64
		Leaf, Account []byte
	}
	for from := int64(-1); ; {
		rows, err := t.b.tx.Query(ctx, page, from, closing.Seq, size)
		if err != nil {
			return fmt.Errorf("acts of %s: %w", closing.Epoch, err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
		if err != nil {
			return fmt.Errorf("acts of %s: %w", closing.Epoch, err)
		}
		for _, r := range list {
			e, err := entry.Decode(r.Leaf)
			if err != nil {
				return broken("entry %d: %w", r.Seq, err)
			}
			if e.Book != closing.Book || e.Epoch != closing.Epoch {
				continue
			}
			if err := fn(e, string(r.Account)); err != nil {
				return err
			}
		}
		if len(list) < size {
			return nil
		}
		from = list[len(list)-1].Seq
	}
}

// kindOfWork is what the catalog entry of a task says of its kind.
func (t *turn) kindOfWork(ctx context.Context, first string) (string, error) {
	task, ok := t.b.state.TaskByFirst(first)
	if !ok {
		return otherWork, nil
	}
	f, err := getFact(ctx, t.b.tx, task.Current.Entry.URI, task.Current.Entry.CID)
	if err != nil || f == nil {
		return otherWork, err
	}
	var r citysync.CatalogEntry
	if err := decodeRecord(f.CBOR, &r); err != nil || r.FunctionType == nil || *r.FunctionType == "" || len(*r.FunctionType) > 128 {
		return otherWork, nil
	}
	return *r.FunctionType, nil
}

// reports publishes the reports whose closing stands under a published checkpoint. It returns how many.
func (p *publisher) reports(ctx context.Context) (int, error) {
	const due = `select r.seq, r.record, f.uri as from_uri, f.cid as from_cid, c.uri, c.cid from epoch_report r
		cross join lateral (select uri, cid from published_checkpoint where size > r.opened order by size limit 1) f
		cross join lateral (select uri, cid from published_checkpoint where size > r.seq order by size limit 1) c
		where r.uri is null order by r.seq limit 1`
	type row struct {
		Seq              int64
		Record           string
		FromURI, FromCID string
		URI, CID         string
	}
	rows, err := p.store.pool.Query(ctx, due)
	if err != nil {
		return 0, fmt.Errorf("reports due: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reports due: %w", err)
	}
	var value map[string]any
	if err := json.Unmarshal([]byte(r.Record), &value); err != nil {
		return 0, broken("report %d: %w", r.Seq, err)
	}
	value["fromCheckpoint"] = map[string]any{"uri": r.FromURI, "cid": r.FromCID}
	value["toCheckpoint"] = map[string]any{"uri": r.URI, "cid": r.CID}
	book, _ := value["book"].(string)
	epoch, _ := value["epoch"].(string)
	written, err := p.write(ctx, []record{{lexicons.LedgerEpochReport, lexicons.ReportKey(book, epoch, ""), value}})
	if err != nil {
		return 0, err
	}
	crash.Point("ledger/report/after-write")
	const note = `update epoch_report set uri = $2, cid = $3 where seq = $1 and uri is null`
	if _, err := p.store.pool.Exec(ctx, note, r.Seq, written[0].uri, written[0].cid); err != nil {
		return 0, fmt.Errorf("note published report: %w", err)
	}
	return 1, nil
}
