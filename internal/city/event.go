package city

import (
	"embed"
	"io/fs"
	"math/big"
	"time"
)

//go:embed events
var embeddedEvents embed.FS

// Event is one mass event, read and checked: work of a few days, paid in a book of its own that sponsors honor until it ends. A folder
// has event.csv (key,value; kpi may stand more than once), sponsors.csv and tasks.csv.
type Event struct {
	Title, Goal string
	Symbol      string
	StartsAt    time.Time
	EndsAt      time.Time // of the work
	RedeemUntil time.Time // of the book: what is left then expires
	CapShareBps int64     // of the sponsors' capacity
	KPIs        []string

	Sponsors []Sponsored
	Tasks    []EventTask
}

// Sponsored is what a sponsor commits for the whole event.
type Sponsored struct {
	ID, Title   string
	Units, Cost int64
}

// EventTask is one kind of work of an event.
type EventTask struct {
	ID, IssuerRole, Title string
	Tier, Minutes         int
	Credits               int64
	Slots                 int64
	Standby               int64 // people on call, who take a slot left empty; they reserve nothing of their own
}

// Events lists the events that the program carries.
func Events() []string { return carriedEvents.names() }

// EventFolder gives the files of an embedded event by name, or else of a directory.
func EventFolder(name string) (fs.FS, error) { return carriedEvents.folder("UnknownEvent", name) }

var carriedEvents = shelf{embeddedEvents, "events"}

// LoadEvent reads and checks an event's folder. Its error joins up to 20 faults, each an *Error with file and line.
func LoadEvent(fsys fs.FS) (*Event, error) {
	var f faults
	e := &Event{CapShareBps: DefaultParameters().CapShareBps}
	e.readEvent(fsys, &f)
	e.readSponsors(fsys, &f)
	e.readTasks(fsys, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Event) readEvent(fsys fs.FS, f *faults) {
	t := readTable(fsys, "event.csv", []string{"key", "value"}, f)
	values := map[string]*row{}
	for _, r := range t.rows {
		key := r.text("key", 64)
		if key == "kpi" {
			e.KPIs = append(e.KPIs, r.text("value", 300))
			continue
		}
		if values[key] != nil {
			r.fail("Duplicate", "key %q stands twice", key)
		}
		values[key] = r
	}
	text := func(key string, maxLength int) string {
		if values[key] == nil {
			if len(t.rows) > 0 {
				f.add("MissingValue", "event.csv", 0, "key %q is missing", key)
			}
			return ""
		}
		return values[key].text("value", maxLength)
	}
	date := func(key string) time.Time {
		s := text(key, 40)
		at, err := time.Parse(time.RFC3339, s)
		if err != nil && s != "" {
			values[key].fail("BadDate", "%s %q is no date like 2027-01-04T00:00:00-08:00", key, s)
		}
		return at
	}
	e.Title, e.Goal, e.Symbol = text("title", 100), text("goal", 300), text("symbol", 16)
	e.StartsAt, e.EndsAt, e.RedeemUntil = date("startsAt"), date("endsAt"), date("redeemUntil")
	if !e.StartsAt.IsZero() && !e.RedeemUntil.IsZero() && (!e.StartsAt.Before(e.EndsAt) || e.RedeemUntil.Before(e.EndsAt)) {
		f.add("BadDate", "event.csv", 0, "an event starts, ends, and is redeemed until its end or later")
	}
	if r := values["capShareBps"]; r != nil {
		e.CapShareBps = r.integer("value", 0, 10000)
	}
}

func (e *Event) readSponsors(fsys fs.FS, f *faults) {
	t := readTable(fsys, "sponsors.csv", []string{"id", "title", "units", "cost"}, f)
	seen := ids{}
	for _, r := range t.rows {
		e.Sponsors = append(e.Sponsors, Sponsored{
			ID: seen.id(r, "id"), Title: r.text("title", 100), Units: r.integer("units", 1, maxAmount), Cost: r.integer("cost", 1, 1_000_000),
		})
	}
}

func (e *Event) readTasks(fsys fs.FS, f *faults) {
	t := readTable(fsys, "tasks.csv", []string{"id", "issuerRole", "title", "tier", "hours", "credits", "slots", "standbyBps"}, f)
	seen := ids{}
	for _, r := range t.rows {
		task := EventTask{
			ID: seen.id(r, "id"), IssuerRole: r.text("issuerRole", 64), Title: r.text("title", 100), Tier: int(r.integer("tier", 1, 9)),
			Minutes: r.minutes("hours"), Credits: r.integer("credits", 1, 1_000_000), Slots: r.integer("slots", 1, 10_000),
		}
		task.Standby = task.Slots * r.integer("standbyBps", 0, 10000) / 10000
		e.Tasks = append(e.Tasks, task)
	}
}

// Capacity is what the sponsors can honor in all, in credits.
func (e *Event) Capacity() int64 {
	var sum int64
	for _, s := range e.Sponsors {
		sum += s.Units * s.Cost
	}
	return sum
}

// Cap is the share of the capacity that may be issued, floored once.
func (e *Event) Cap() int64 {
	n := new(big.Int).Mul(big.NewInt(e.Capacity()), big.NewInt(e.CapShareBps))
	return n.Quo(n, big.NewInt(10000)).Int64()
}

// Planned are the credits and the slots of all tasks. People on standby are in none of them.
func (e *Event) Planned() (credits, slots int64) {
	for _, t := range e.Tasks {
		credits += t.Credits * t.Slots
		slots += t.Slots
	}
	return credits, slots
}
