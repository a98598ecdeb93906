package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons/citysync"
)

func (p *Pages) epochs(ctx context.Context, _ *http.Request, _ layout) (any, error) {
	return p.db.Epochs(ctx)
}

type epochPage struct {
	query.EpochDetail
	Report     *query.Report  // the one that counts, nil before there is one
	Others     []query.Report // with the reason why they do not count
	Chart      chart
	Indicators []indicator
	Alarms     []alarm
	Conflict   bool // the targets for utilization and backlog cannot both be met
	WarmUp     bool // of some month
}

// indicator is one line of the table: a value for each month that was closed.
type indicator struct {
	Key    string // of its phrase
	Target string
	Values []string
}

// alarm is what the ledger's report raises for a month.
type alarm struct {
	Month                     int // from 1
	Indicator, Mode, Response string
	Value                     string
	Offering                  string // at-uri, or ""
}

func (p *Pages) epoch(ctx context.Context, r *http.Request, l layout) (any, error) {
	d, err := p.db.EpochDetail(ctx, r.PathValue("book"), r.PathValue("epoch"))
	if err != nil {
		return nil, err
	}
	page := epochPage{EpochDetail: d, Conflict: d.Open.R.Den > 0 && d.Open.R.Num*5 < d.Open.R.Den}
	reports, err := p.db.EpochReports(ctx, d.Book, d.Epoch)
	if err != nil {
		return nil, err
	}
	for i, rep := range reports {
		if rep.Refused == "" && page.Report == nil {
			page.Report = &reports[i]
			continue
		}
		page.Others = append(page.Others, rep)
	}
	var months []*citysync.LedgerEpochReport_Month
	if page.Report != nil {
		months = page.Report.Record.Months
		page.Conflict = page.Conflict || slices.Contains(page.Report.Record.Notes, "targets-conflict")
	}
	for i, m := range months {
		page.WarmUp = page.WarmUp || said(m.WarmUp)
		for _, a := range m.Alarms {
			page.Alarms = append(page.Alarms, alarmOf(i+1, a))
		}
	}
	page.Indicators = indicators(d, months)
	page.Chart = chartOf(l, d.Months)
	return page, nil
}

func said(flag *bool) bool { return flag != nil && *flag }

// indicators computes what the log's own months come to; the expected path of efficiency is the ledger's statement.
func indicators(d query.EpochDetail, reported []*citysync.LedgerEpochReport_Month) []indicator {
	out := []indicator{
		{Key: "efficiency", Target: "70–90 %"}, {Key: "expectedEfficiency"}, {Key: "againstExpected"},
		{Key: "utilization", Target: "50–80 %"}, {Key: "backlog", Target: "1–4"},
		{Key: "engagement", Target: "< 25 %"}, {Key: "issuance", Target: "50–85 %"},
	}
	for i, m := range d.Months {
		if m.Seq < 0 {
			break
		}
		expected := int64(-1)
		if i < len(reported) && reported[i].ExpectedEfficiencyBps != nil {
			expected = *reported[i].ExpectedEfficiencyBps
		}
		efficiency := scaled(m.Burned, m.Issued, 10_000)
		for k, v := range []string{
			percent(efficiency), percent(expected), percent(against(efficiency, expected)),
			percent(scaled(m.Burned, d.CapacityMonth, 10_000)), thousandths(scaled(m.Active, d.CapacityMonth, 1000)),
			percent(scaled(m.Dormant, m.Active+m.Dormant, 10_000)), percent(scaled(m.Issued, d.CapacityMonth, 10_000)),
		} {
			out[k].Values = append(out[k].Values, v)
		}
	}
	return out
}

// scaled is num/den in units of 1/unit, rounded half up; -1 where it is not defined.
func scaled(num, den, unit int64) int64 {
	if den <= 0 || num < 0 {
		return -1
	}
	return (2*num*unit + den) / (2 * den)
}

func against(value, expected int64) int64 {
	if value < 0 || expected <= 0 {
		return -1
	}
	return scaled(value, expected, 10_000)
}

// percent writes basis points; both languages write the decimal point alike.
func percent(bps int64) string {
	if bps < 0 {
		return "–"
	}
	return fmt.Sprintf("%d.%d %%", (bps+5)/100, (bps+5)%100/10)
}

func thousandths(milli int64) string {
	if milli < 0 {
		return "–"
	}
	return fmt.Sprintf("%d.%03d", milli/1000, milli%1000)
}

func alarmOf(month int, a *citysync.LedgerEpochReport_Alarm) alarm {
	out := alarm{Month: month, Indicator: a.Indicator, Mode: a.Mode}
	if a.Response != nil {
		out.Response = *a.Response
	}
	if a.Value != nil {
		if out.Value = percent(*a.Value); a.Indicator == "backlog" {
			out.Value = thousandths(*a.Value)
		}
	}
	if a.Offering != nil {
		out.Offering = a.Offering.Uri
	}
	return out
}

// cell is one kind of work in the report; figures of too few people are withheld.
type cell struct {
	Category              string
	Suppressed            bool
	People, Mints, Issued string
}

// Cells gives the report's cells about people.
func (p epochPage) Cells() []cell {
	var out []cell
	for _, c := range p.Report.Record.ByCategory {
		out = append(out, cell{Category: c.Category, Suppressed: said(c.Suppressed), People: optional(c.People), Mints: optional(c.Mints), Issued: optional(c.Issued)})
	}
	return out
}

// Participants is how many people took part, or "" where they are too few to say.
func (p epochPage) Participants() string {
	return optional(p.Report.Record.ActiveParticipants)
}

func optional(n *int64) string {
	if n == nil {
		return ""
	}
	return number(*n)
}

// MonthName names a month by its first day.
func (l layout) MonthName(t time.Time) string {
	t = t.In(l.TZ)
	if l.Lang == "es" {
		return fmt.Sprintf("%d de %s", t.Day(), phrase("es", t.Format("January")))
	}
	return t.Format("2 January")
}
