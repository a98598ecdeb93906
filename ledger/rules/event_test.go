package rules_test

import (
	"math/big"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// units of the event, price
const eventSponsors = `400,10
160,25
150,20
25,60
100,30
60,25`

// issuer, tier, hours, credits, slots
const eventCatalog = `PW,1,3,24,160
PW,2,4,48,24
TR,2,2,24,100
TR,3,3,48,24
PK,1,3,24,60
PK,2,3,36,24
LB,1,2,16,40`

const (
	mce     = "mce1"
	mceBook = "brky-mce1"
)

// eventPlan is the window of "Block by Block": from its first morning to the end of redemption.
func eventPlan(w *rulestest.World) entry.EpochPlan {
	from, to := entry.FormatTime(w.At("2027-05-15 08:00")), entry.FormatTime(w.At("2027-06-14 00:00"))
	return entry.EpochPlan{
		Key: mce, StartsAt: from, EndsAt: to, TZ: "America/Los_Angeles", Phase: entry.PhaseEvent, Book: mceBook,
		Months: []entry.Month{{StartsAt: from, EndsAt: to}},
	}
}

func TestGoldenVector5TheEventHasRoomInABookOfItsOwn(t *testing.T) {
	t.Parallel()
	w := rulestest.New(t)
	p := w.Parameters(entry.PhaseLaunch)
	p.Epochs = append(p.Epochs, eventPlan(w))
	for id, weight := range map[string]int64{"PW": 4_992, "TR": 3_552, "PK": 2_304, "LB": 640} {
		p.Weights = append(p.Weights, entry.Weight{DID: did(id), Weight: weight})
		w.Must(w.Role(did(id), rules.RoleIssuer))
	}
	w.SetParameters(p)
	w.Must(w.Role("did:plc:sponsor", rules.RoleSponsor))
	open := rules.OpenEpoch{Now: w.Now, Epoch: mce, Book: mceBook}
	for i, r := range table(t, eventSponsors) {
		o := w.Offer("did:plc:sponsor", string(rune('a'+i)), num(t, r[0]), num(t, r[0]), num(t, r[0]), num(t, r[1]))
		o.Epoch, o.Book = mce, mceBook
		open.Offerings = append(open.Offerings, o)
	}
	w.Must(open)
	totals, _ := w.State.Totals(mceBook, mce)
	assert.Equal(t, [2]int64{17_000, 11_900}, [2]int64{totals.CapacityMonth, totals.Cap})
	assert.Equal(t, entry.BoundByEvent, totals.BoundBy)
	c := &pilot{World: w}
	w.Now = w.At("2027-05-01 09:00")
	var slots int64
	for i, r := range table(t, eventCatalog) {
		task := c.task(t, r[0]+string(rune('a'+i)), r)
		task.Epoch, task.Book = mce, mceBook
		task.ClaimOpensAt = w.At("2027-05-15 08:00")
		task.Shifts[0].StartsAt, task.Shifts[0].EndsAt = w.At("2027-05-15 09:00"), w.At("2027-05-15 14:00")
		w.Must(task)
		slots += num(t, r[4])
	}
	totals, _ = w.State.Totals(mceBook, mce)
	assert.Equal(t, [2]int64{11_488, 432}, [2]int64{totals.Reserved, slots})

	// In the standard book it would not fit: a month at the share bound leaves 4 864.
	iMax := rules.EpochCap(p.CapPolicy, entry.PhaseSteady, 15_200, rules.Rates{R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}}, 3).IMax
	share := big.NewRat(34_048, 3)
	assert.Equal(t, "48640/3", iMax.String())
	assert.Equal(t, "68512/3", new(big.Rat).Add(share, big.NewRat(totals.Reserved, 1)).String())
	assert.Equal(t, "4864", new(big.Rat).Sub(iMax, share).RatString())
}

// eventTown is a town that also has an event with a sponsor.
type eventTown struct {
	*rulestest.Town
	coffee rules.Offering
	till   string
}

const sponsor = syntax.DID("did:plc:sponsor")

func newEventTown(t rulestest.T) *eventTown {
	t.Helper()
	town := rulestest.NewTownWith(t, func(w *rulestest.World, p *entry.Parameters) { p.Epochs = append(p.Epochs, eventPlan(w)) })
	w := &eventTown{Town: town}
	w.Must(w.Role(sponsor, rules.RoleSponsor))
	w.coffee = w.Offer(sponsor, "coffee", 400, 400, 400, 4)
	w.coffee.Epoch, w.coffee.Book = mce, mceBook
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: mce, Book: mceBook, Offerings: []rules.Offering{w.coffee}})
	w.Must(rules.BindTill{Now: w.Now, Org: sponsor, Key: "did:key:zDnaSponsor"})
	w.till = entry.TillID(string(sponsor), "did:key:zDnaSponsor")
	return w
}

func (w *eventTown) eventTask(key string) rules.AcceptTask {
	task := w.Task(rulestest.Library, key, 3)
	task.Epoch, task.Book = mce, mceBook
	return task
}

func (w *eventTown) coffees(n int, units int64) rules.Burn {
	return rules.Burn{Now: w.Now, Account: rulestest.Account(n), Offering: w.coffee, Units: units, Till: w.till}
}

// An event's plan is for its own book, and no other plan is.
func TestAnEventsPlanIsForItsBookAlone(t *testing.T) {
	t.Parallel()
	w := newEventTown(t)
	w.Refused(rules.BookMismatch, rules.OpenEpoch{Now: w.Now, Epoch: mce, Book: rulestest.Book})
	w.Refused(rules.BookMismatch, rules.OpenEpoch{Now: w.Now, Epoch: "e2027-02", Book: mceBook})
	for name, change := range map[string]func(*entry.EpochPlan){
		"no book":                func(p *entry.EpochPlan) { p.Book = "" },
		"two months":             func(p *entry.EpochPlan) { p.Months = append(p.Months, p.Months[0]) },
		"a book in steady phase": func(p *entry.EpochPlan) { p.Phase = entry.PhaseSteady },
	} {
		p := w.Parameters(entry.PhaseLaunch)
		plan := eventPlan(w.World)
		plan.Key = "mce2"
		change(&plan)
		p.Epochs = append(p.Epochs, plan)
		_, err := rules.Decide(w.State, rules.SetParameters{Now: w.Now, Record: w.Ref(rulestest.City, "gov.parameterSet", "x"), Parameters: p})
		assert.Equal(t, rules.ParametersInvalid, rules.Refused(err), name)
	}
}

// A book that ends takes everything, and nothing of it before.
func TestForgedEndsOfABookStopTheReplay(t *testing.T) {
	t.Parallel()
	w := newEventTown(t)
	w.Now = w.At("2027-05-15 09:00")
	task := w.Accept(w.eventTask("crew"))
	token := w.Claim(0, task)
	w.Now = w.At("2027-05-15 10:00")
	w.Must(w.Verify(task, token))
	w.Now = w.At("2027-06-14 00:00")
	entries, err := rules.Decide(w.State, rules.CloseMonths{Now: w.Now})
	require.NoError(t, err)
	require.Equal(t, mceBook, entries[0].Book)
	require.Equal(t, []entry.Kind{entry.KindDormant, entry.KindExpire}, kinds(entries[:2]))
	for name, change := range map[string]func(*entry.Entry){
		"less":             func(e *entry.Entry) { e.Amount-- },
		"all of it asleep": func(e *entry.Entry) { e.Expire.Active = 0 },
		"dormancy":         func(e *entry.Entry) { e.Expire.Reason = entry.ExpireDormancy },
		"another month":    func(e *entry.Entry) { e.Expire.Month = 1 },
	} {
		s := w.Replay()
		require.NoError(t, rules.Apply(s, entries[0]))
		x := entries[1]
		x.Expire = new(*x.Expire)
		change(&x)
		require.ErrorIs(t, rules.Apply(s, x), rules.ErrBroken, name)
	}
}
