package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// row is one row of the catalog as the network has it.
type row struct {
	plannedRow
	n        int // place in the plan
	issuer   *organization
	entry    *citysync.CatalogEntry
	entryRef city.Ref
	ref      city.Ref // of the task's current version
	task     *citysync.WorkTask
	refused  *explanation // where the ledger has no room for it
}

// open tells whether residents can claim it in the open.
func (r *row) open() bool { return r.refused == nil && r.entry.Sensitivity != city.Sealed }

// look learns from the network what stands: the catalog, the tasks, the offerings.
func (d *demo) look(ctx context.Context) error {
	if err := d.checkEpoch(ctx); err != nil {
		return err
	}
	var err error
	if d.ready.Plan == nil {
		if d.ready.Plan, err = d.planFromNetwork(ctx); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
	}
	if d.loc, err = time.LoadLocation(d.ready.Plan.TZ); err != nil {
		return fmt.Errorf("the city's zone: %w", err)
	}
	d.progress.of(len(d.ready.Plan.Entries))
	for n, p := range d.ready.Plan.Entries {
		r, err := d.lookAt(ctx, n, p)
		if err != nil {
			return err
		}
		d.rows = append(d.rows, r)
		d.progress.add()
	}
	return nil
}

func (d *demo) lookAt(ctx context.Context, n int, p plannedRow) (*row, error) {
	account, ok := d.ready.account(p.Issuer)
	if !ok {
		return nil, fmt.Errorf("entry %s: no account %s", p.ID, p.Issuer)
	}
	r := &row{plannedRow: p, n: n, issuer: d.orgs[syntax.DID(account.DID)]}
	rec, err := d.pds.get(ctx, authorOf(p.Entry), lexicons.CatalogEntry, rkeyOf(p.Entry))
	if err != nil {
		return nil, err
	}
	if rec == nil && p.Draft != "" {
		// The city took its approval away. The issuer has its draft to cite still, and the ledger says what that is worth.
		if rec, err = d.pds.get(ctx, authorOf(p.Draft), lexicons.CatalogEntry, rkeyOf(p.Draft)); err != nil {
			return nil, err
		}
	}
	if rec == nil {
		return nil, fmt.Errorf("entry %s: %s does not exist", p.ID, p.Entry)
	}
	r.entry, r.entryRef = new(citysync.CatalogEntry), *rec.ref()
	if err := json.Unmarshal(rec.Value, r.entry); err != nil {
		return nil, fmt.Errorf("entry %s: %w", p.ID, err)
	}
	return r, nil
}

// checkEpoch says at once when nothing can be done now: claims need a running epoch.
func (d *demo) checkEpoch(ctx context.Context) error {
	c, err := d.ledger.capacity(ctx)
	if err != nil {
		return fmt.Errorf("the ledger's open epoch: %w", err)
	}
	if now := time.Now(); now.Before(c.StartsAt) || !now.Before(c.EndsAt) {
		return fmt.Errorf("epoch %s runs from %s to %s: nothing can be claimed today", c.Epoch,
			c.StartsAt.Format(time.DateOnly), c.EndsAt.Format(time.DateOnly))
	}
	if c.Epoch != d.ready.Epoch.Key {
		return fmt.Errorf("the ledger has epoch %s open, the ready file names %s", c.Epoch, d.ready.Epoch.Key)
	}
	return nil
}

// publishTasks publishes one task for each row that has none, in the catalog's order:
// where an issuer plans more than its allocation, the order says what is left out.
func (d *demo) publishTasks(ctx context.Context) error {
	d.progress.of(len(d.rows))
	for _, r := range d.rows {
		if err := d.publishTask(ctx, r); err != nil {
			return fmt.Errorf("task %s: %w", r.ID, err)
		}
		d.progress.add()
	}
	if !slices.ContainsFunc(d.rows, (*row).open) {
		return errors.New("no task is open to claims: nobody can earn anything here")
	}
	return nil
}

func (d *demo) publishTask(ctx context.Context, r *row) error {
	existing, err := d.taskOf(ctx, r)
	if err != nil {
		return err
	}
	if existing == nil {
		r.task = d.newTask(r, time.Now())
		ref, err := r.issuer.put(ctx, lexicons.WorkTask, d.key(keyTask+r.n), r.task)
		if err != nil {
			return err
		}
		r.ref = *ref
	} else {
		r.ref, r.task = *existing.ref(), new(citysync.WorkTask)
		if err := json.Unmarshal(existing.Value, r.task); err != nil {
			return err
		}
	}
	e, err := d.decided(ctx, &r.ref)
	if err != nil {
		return err
	}
	if e.Status != "refused" {
		return nil
	}
	if e.Error != "AllocationExceeded" && e.Error != "CapExceeded" {
		return fmt.Errorf("the ledger refuses it: %s %s", e.Error, strings.TrimSpace(strings.TrimPrefix(e.Message, e.Error)))
	}
	r.refused = e
	return nil
}

// taskOf finds the task that the issuer published for an entry, other than our tries.
func (d *demo) taskOf(ctx context.Context, r *row) (*record, error) {
	tasks, err := d.pds.list(ctx, r.issuer.DID, lexicons.WorkTask)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		var task citysync.WorkTask
		if err := json.Unmarshal(t.Value, &task); err != nil {
			return nil, fmt.Errorf("%s: %w", t.URI, err)
		}
		rkey := t.URI.RecordKey().String()
		ours := task.Entry.Uri == r.entryRef.Uri || rkey == d.key(keyTask+r.n)
		if ours && task.Epoch == d.ready.Epoch.Key && !d.isTry(rkey) {
			return &t, nil
		}
	}
	return nil, nil
}

func (d *demo) isTry(rkey string) bool {
	return rkey == d.key(keyTryTooBig) || rkey == d.key(keyTryUnlisted) || rkey == d.key(keyTryStranger)
}

const (
	shiftLead   = 2 * time.Minute // shifts began a moment ago
	shiftAtMost = 40              // slots of one shift, as far as a task may have so many shifts
	maxShifts   = 20
)

func (d *demo) newTask(r *row, now time.Time) *citysync.WorkTask {
	summary := r.entry.Summary
	task := &citysync.WorkTask{
		LexiconTypeID: lexicons.WorkTask, Title: r.entry.Title, Summary: &summary, Langs: r.entry.Langs,
		Epoch: d.ready.Epoch.Key, Book: city.Book, CreditsPerCompletion: r.Credits, Entry: &r.entryRef,
		ReservedFor: r.entry.ReservedFor, RequiredCredentials: r.entry.RequiredCredentials,
		Shifts: d.shifts(r.Slots, r.Minutes, now),
	}
	if r.Place != "" {
		task.Places = []*citysync.Defs_Place{{Name: r.Place}}
	}
	return task
}

// shifts spreads slots over shifts that are running now and last as long as is paid.
func (d *demo) shifts(slots, minutes int, now time.Time) []*citysync.Defs_Shift {
	count := min(max((slots+shiftAtMost-1)/shiftAtMost, (slots+9999)/10000), max(maxShifts, (slots+9999)/10000))
	start := now.Add(-shiftLead).Truncate(time.Minute)
	if start.Before(d.ready.Epoch.StartsAt) {
		start = d.ready.Epoch.StartsAt
	}
	end := start.Add(time.Duration(minutes) * time.Minute)
	var out []*citysync.Defs_Shift
	for i := range count {
		n := slots / count
		if i < slots%count {
			n++
		}
		out = append(out, &citysync.Defs_Shift{
			Id: fmt.Sprintf("s%d", i+1), StartsAt: city.Datetime(start), EndsAt: city.Datetime(end), Slots: int64(n),
		})
	}
	return out
}
