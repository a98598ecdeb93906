package rules

import (
	"math/big"
	"slices"
	"strings"

	"city-sync.org/citysync/ledger/entry"
)

// MonthFigures are what a closed month of a book shows to those who review it.
type MonthFigures struct {
	Epoch            string
	Month            int
	StartsAt, EndsAt string
	Flow             Flow
	Before, After    Stock
	Capacity         int64
	Rates            Rates         // those that the epoch opened with
	Offerings        []OfferingUse // that C counts, by uri
	WarmUp           bool          // nothing is judged
	Indicators                     // of this month
	Expected         *big.Rat      // η of the same model run on what the ledger issued; nil where it issued nothing
	Alarms           []Alarm
}

// OfferingUse is how much of an offering a month used.
type OfferingUse struct {
	Offering         entry.Ref
	Units, Committed int64
}

// Indicators that an alarm can rest on, what it warns of, and what was agreed to answer.
const (
	IndicatorEfficiency  = "efficiency"
	IndicatorUtilization = "utilization"
	IndicatorBacklog     = "backlog"
	IndicatorEngagement  = "engagement"
	IndicatorIssuance    = "issuance"

	ModeOverIssuance        = "over-issuance"
	ModeUnderIssuance       = "under-issuance"
	ModeCredentialExclusion = "credential-exclusion" //nolint:gosec // no credential: the name of a failure mode
	ModeSaturation          = "saturation"

	ResponseLowerPrices      = "lower-prices"
	ResponseEmergencyReview  = "emergency-review"
	ResponseMayExpand        = "may-expand"
	ResponseRecruitRedeemers = "recruit-redeemers"
	ResponseReprice          = "reprice"
	ResponseCaution          = "caution"
	ResponseDanger           = "danger"
	ResponseRetention        = "retention-alert"

	NoteTargetsConflict = "targets-conflict"
)

// Alarm is one indicator that stayed outside its range for long enough. Value is in its own unit: basis points, thousandths for the
// backlog; of efficiency it is the share of what was expected.
type Alarm struct {
	Indicator, Mode, Response string
	Offering                  *entry.Ref
	Value                     int64
}

// trigger is one row of the table that the committees agreed on: it holds for so many months in a row, and then is an alarm.
type trigger struct {
	indicator, mode, response string
	months                    int
	holds                     func(now, before *MonthFigures) (value int64, ok bool)
}

// triggers, those of one indicator from the gravest on: only the first that is met is raised.
var triggers = []trigger{
	{IndicatorEfficiency, ModeOverIssuance, ResponseEmergencyReview, 2, func(m, _ *MonthFigures) (int64, bool) { return m.attained(0, 5_000) }},
	{IndicatorEfficiency, ModeOverIssuance, ResponseLowerPrices, 3, func(m, _ *MonthFigures) (int64, bool) { return m.attained(0, 6_000) }},
	{IndicatorEfficiency, ModeUnderIssuance, ResponseMayExpand, 3, mayExpand},
	{IndicatorUtilization, ModeSaturation, ResponseRecruitRedeemers, 2, func(m, _ *MonthFigures) (int64, bool) {
		u, ok := Bps(m.Utilization)
		return u, ok && u >= 8_000
	}},
	{IndicatorBacklog, ModeOverIssuance, ResponseDanger, 2, func(m, _ *MonthFigures) (int64, bool) {
		a, ok := Milli(m.Backlog)
		return a, ok && a >= 6_000
	}},
	{IndicatorBacklog, ModeOverIssuance, ResponseCaution, 3, func(m, _ *MonthFigures) (int64, bool) {
		a, ok := Milli(m.Backlog)
		return a, ok && a >= 4_000
	}},
	{IndicatorEngagement, ModeCredentialExclusion, ResponseRetention, 2, func(m, before *MonthFigures) (int64, bool) {
		d, ok := Bps(m.Engagement)
		return d, ok && d >= 3_000 && before != nil && compare(m.Engagement, before.Engagement) > 0 && compare(m.Efficiency, before.Efficiency) < 0
	}},
	{IndicatorIssuance, ModeOverIssuance, ResponseReprice, 2, overIssued},
}

// compare orders two ratios; one that is not defined is equal to any.
func compare(a, b entry.Ratio) int {
	if a.Den <= 0 || b.Den <= 0 {
		return 0
	}
	return big.NewRat(a.Num, a.Den).Cmp(big.NewRat(b.Num, b.Den))
}

// attained gives efficiency as a share of what was expected, where that lies between two bounds, in basis points. From an empty start
// efficiency is low by construction: only the path it should have taken says whether it is too low.
func (m *MonthFigures) attained(from, to int64) (int64, bool) {
	if m.Efficiency.Den <= 0 || m.Expected == nil || m.Expected.Sign() == 0 {
		return 0, false
	}
	share := new(big.Rat).Quo(big.NewRat(m.Efficiency.Num, m.Efficiency.Den), m.Expected)
	share.Mul(share, big.NewRat(bps, 1))
	value := floor(new(big.Rat).Add(share, big.NewRat(1, 2)))
	return value, share.Cmp(big.NewRat(from, 1)) >= 0 && share.Cmp(big.NewRat(to, 1)) <= 0
}

// mayExpand: credits are redeemed as they should be, and the redeemers have room.
func mayExpand(m, _ *MonthFigures) (int64, bool) {
	value, ok := m.attained(7_000, 1<<40)
	u, hasU := Bps(m.Utilization)
	a, hasA := Milli(m.Backlog)
	i, hasI := Bps(m.Issuance)
	return value, ok && hasU && u < 8_000 && hasA && a < 4_000 && hasI && i < 5_000
}

// overIssued: more than (r+δ)/r of capacity cannot be redeemed for good.
func overIssued(m, _ *MonthFigures) (int64, bool) {
	i, ok := Bps(m.Issuance)
	if !ok || m.Rates.R.Num <= 0 {
		return 0, false
	}
	r, delta := big.NewRat(m.Rates.R.Num, m.Rates.R.Den), big.NewRat(m.Rates.Delta.Num, m.Rates.Delta.Den)
	most := new(big.Rat).Quo(new(big.Rat).Add(r, delta), r)
	return i, big.NewRat(m.Issuance.Num, m.Issuance.Den).Cmp(most) >= 0
}

// Judge gives every month its indicators, its expected efficiency and its alarms. The months are all those of a book, in order, with
// flows, stocks, capacity, rates and offerings filled in; the first warmUp of them show figures and raise nothing.
func Judge(months []MonthFigures, warmUp int64) {
	expected := ExpectedEfficiency(months)
	for i := range months {
		m := &months[i]
		m.Indicators = Indicate(m.Flow, m.After, m.Capacity)
		m.Expected = expected[i]
		m.WarmUp = int64(i) < warmUp
		m.Alarms = nil
	}
	for i := range months {
		if m := &months[i]; !m.WarmUp {
			m.Alarms = append(alarmsAt(months, i), saturated(months, i)...)
		}
	}
}

// alarmsAt gives the alarms of a month: of each indicator the first trigger that held in it and in as many before as it asks for, none
// of them in the warm-up.
func alarmsAt(months []MonthFigures, at int) []Alarm {
	var list []Alarm
	for _, t := range triggers {
		value, ok := t.heldFor(months, at)
		raised := slices.ContainsFunc(list, func(a Alarm) bool { return a.Indicator == t.indicator })
		if ok && !raised {
			list = append(list, Alarm{Indicator: t.indicator, Mode: t.mode, Response: t.response, Value: value})
		}
	}
	return list
}

func (t *trigger) heldFor(months []MonthFigures, at int) (value int64, ok bool) {
	for n := range t.months {
		i := at - n
		if i < 0 || months[i].WarmUp {
			return 0, false
		}
		var before *MonthFigures
		if i > 0 {
			before = &months[i-1]
		}
		v, holds := t.holds(&months[i], before)
		if !holds {
			return 0, false
		}
		if n == 0 {
			value = v
		}
	}
	return value, true
}

const saturationMonths = 2

// saturated: one offering at nine tenths or more of what is committed, while every other is at half or less.
func saturated(months []MonthFigures, at int) []Alarm {
	var first *OfferingUse
	for n := range saturationMonths {
		i := at - n
		if i < 0 || months[i].WarmUp {
			return nil
		}
		full := months[i].alone()
		if full == nil || (first != nil && first.Offering.URI != full.Offering.URI) {
			return nil
		}
		if first == nil {
			first = full
		}
	}
	value, _ := Bps(entry.Ratio{Num: first.Units, Den: first.Committed})
	return []Alarm{{
		Indicator: IndicatorUtilization, Mode: ModeSaturation, Response: ResponseReprice, Offering: new(first.Offering), Value: value,
	}}
}

// alone gives the one offering that is full while the others are not half used.
func (m *MonthFigures) alone() *OfferingUse {
	var full *OfferingUse
	for i := range m.Offerings {
		o := &m.Offerings[i]
		switch {
		case o.Committed > 0 && 10*o.Units >= 9*o.Committed && full == nil:
			full = o
		case 2*o.Units > o.Committed:
			return nil
		}
	}
	if len(m.Offerings) < 2 {
		return nil
	}
	return full
}

// ExpectedEfficiency runs the stock from nothing on what the ledger issued: each month r of the active stock is redeemed and δ of it
// falls asleep. nil where nothing was issued.
func ExpectedEfficiency(months []MonthFigures) []*big.Rat {
	list := make([]*big.Rat, len(months))
	stock := new(big.Rat)
	for i, m := range months {
		issued := big.NewRat(m.Flow.I, 1)
		burned := new(big.Rat).Mul(stock, ratio(m.Rates.R))
		quiet := new(big.Rat).Mul(stock, ratio(m.Rates.Delta))
		if m.Flow.I > 0 {
			list[i] = new(big.Rat).Quo(burned, issued)
		}
		stock.Add(stock, issued)
		stock.Sub(stock, burned)
		if stock.Sub(stock, quiet); stock.Sign() < 0 {
			stock.SetInt64(0)
		}
	}
	return list
}

func ratio(r entry.Ratio) *big.Rat {
	if r.Den <= 0 {
		return new(big.Rat)
	}
	return big.NewRat(r.Num, r.Den)
}

// TargetsConflict says that the targets for utilization and backlog cannot both be met: at a steady state the backlog is U/r, so
// that at a burn rate under a fifth a utilization of .80 means a backlog over 4.
func TargetsConflict(r entry.Ratio) bool { return ratio(r).Cmp(big.NewRat(1, 5)) < 0 }

// Months gives the closed months of a book, in order and judged.
func (s *State) Months(book string) []MonthFigures {
	var list []MonthFigures
	var warmUp int64
	for _, ep := range s.epochsOf(book) {
		warmUp = ep.params.WarmUpMonths
		for i, m := range ep.past {
			f := MonthFigures{
				Epoch: ep.epoch, Month: i, StartsAt: ep.open.Months[i].StartsAt, EndsAt: ep.open.Months[i].EndsAt, Flow: m.Flow,
				Before: m.Before, After: m.After, Capacity: ep.open.Capacity, Rates: Rates{ep.open.R, ep.open.Delta},
			}
			for _, o := range ep.open.Offerings {
				f.Offerings = append(f.Offerings, OfferingUse{
					Offering: entry.Ref{URI: o.URI, CID: o.CID}, Units: s.units[unitsKey{ep.bookEpoch, o.URI, i}], Committed: o.Units,
				})
			}
			slices.SortFunc(f.Offerings, func(a, b OfferingUse) int { return strings.Compare(a.Offering.URI, b.Offering.URI) })
			list = append(list, f)
		}
	}
	Judge(list, warmUp)
	return list
}
