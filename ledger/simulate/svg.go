package simulate

import (
	"fmt"
	"html"
	"io"
	"math/big"
	"strings"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// Sizes of the chart, in pixels.
const (
	width  = 1100
	left   = 80
	right  = 860
	legend = right + 20
	line   = 18
)

// Colors that are told apart also by those who do not see red or green, and in print.
const (
	blue   = "#0b5cad"
	sky    = "#56a7d8"
	orange = "#d55e00"
	yellow = "#b8860b"
	green  = "#007a5e"
	violet = "#8a4f9e"
	grey   = "#555555"
)

// chart writes one drawing. Coordinates are whole tenths of a pixel: the same run is the same file.
type chart struct {
	b strings.Builder
}

// WriteSVG draws a run: flows with both bounds, the stock, and the indicators, month by month.
func WriteSVG(w io.Writer, title string, months []Month) error {
	c := &chart{}
	const height = 980
	fmt.Fprintf(&c.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="13">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&c.b, "<title id=\"t\">%s</title>\n<desc id=\"d\">%s</desc>\n", html.EscapeString(title), html.EscapeString(describe(months)))
	fmt.Fprintf(&c.b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	c.text(left, 28, "start", "#000000", 18, title)
	c.text(left, 48, "start", grey, 13, describe(months))

	of := func(f func(*Month) int64) []point {
		out := make([]point, len(months))
		for i := range months {
			out[i] = point{f(&months[i]), true}
		}
		return out
	}
	monthly := func(epoch func(*Month) int64) []point { // a bound of the epoch, as a month's share
		return of(func(m *Month) int64 { return epoch(m) / epochMonths(months) })
	}
	flows := panel{top: 90, bottom: 330, title: "Flows of a month, whole credits", unit: 1, series: []series{
		{"issued", blue, "", of(func(m *Month) int64 { return m.Flow.I })},
		{"redeemed", orange, "", of(func(m *Month) int64 { return m.Flow.B })},
		{"gone dormant", violet, "", of(func(m *Month) int64 { return m.Flow.Q })},
		{"cap ÷ months", grey, "2 3", monthly(func(m *Month) int64 { return m.Cap })},
		{"share bound ÷ months", green, "8 4", monthly(func(m *Month) int64 { return m.ShareBound })},
		{"backlog bound ÷ months", yellow, "8 4 2 4", monthly(func(m *Month) int64 { return m.BacklogBound })},
		{"capacity C", "#000000", "1 4", of(func(m *Month) int64 { return m.Capacity })},
	}}
	stock := panel{top: 380, bottom: 540, title: "Stock at the end of a month, whole credits", unit: 1, series: []series{
		{"active A", blue, "", of(func(m *Month) int64 { return m.After.A })},
		{"dormant D", violet, "", of(func(m *Month) int64 { return m.After.D })},
		{"expired in the month", orange, "4 3", of(func(m *Month) int64 { return m.Flow.X })},
	}}
	ratios := panel{top: 590, bottom: 770, title: "Indicators", unit: 1000, bands: []band{{500, 800, "utilization target .50–.80"}}, series: []series{
		{"efficiency B/I", orange, "", milliOf(months, func(m *Month) entry.Ratio { return m.Efficiency })},
		{"expected efficiency", orange, "4 3", expectedOf(months)},
		{"utilization B/C", green, "", milliOf(months, func(m *Month) entry.Ratio { return m.Utilization })},
		{"issuance I/C", blue, "8 4", milliOf(months, func(m *Month) entry.Ratio { return m.Issuance })},
		{"dormancy D/S", violet, "2 3", milliOf(months, func(m *Month) entry.Ratio { return m.Engagement })},
	}}
	backlog := panel{top: 820, bottom: 930, title: "Backlog A/C, months of capacity", unit: 1000, bands: []band{{1000, 4000, "backlog target 1–4"}}, series: []series{
		{"backlog A/C", blue, "", milliOf(months, func(m *Month) entry.Ratio { return m.Backlog })},
	}}
	for _, p := range []*panel{&flows, &stock, &ratios, &backlog} {
		c.panel(p, months)
	}
	c.text((left+right)/2, height-14, "middle", grey, 13, "month")
	c.b.WriteString("</svg>\n")
	if _, err := io.WriteString(w, c.b.String()); err != nil {
		return fmt.Errorf("svg: %w", err)
	}
	return nil
}

// describe says in words what the drawing shows.
func describe(months []Month) string {
	if len(months) == 0 {
		return "no month"
	}
	last := &months[len(months)-1]
	alarms := 0
	for i := range months {
		alarms += len(months[i].Alarms)
	}
	text := fmt.Sprintf("%d months, capacity %d a month. At the end %d active, %d dormant; %d alarms.", len(months), last.Capacity, last.After.A,
		last.After.D, alarms)
	if rules.TargetsConflict(last.Rates.R) {
		text += " Targets conflict: r is under .20."
	}
	return text
}

func epochMonths(months []Month) int64 {
	n := int64(1)
	for i := range months {
		n = max(n, int64(months[i].Month)+1)
	}
	return n
}

// point is a value in its panel's unit; not ok: none is defined.
type point struct {
	value int64
	ok    bool
}

type series struct {
	name, color, dash string
	points            []point
}

type band struct {
	low, high int64
	name      string
}

// panel is one diagram. Values are drawn over unit.
type panel struct {
	top, bottom int64
	title       string
	unit        int64
	bands       []band
	series      []series
}

func milliOf(months []Month, f func(*Month) entry.Ratio) []point {
	out := make([]point, len(months))
	for i := range months {
		out[i].value, out[i].ok = rules.Milli(f(&months[i]))
	}
	return out
}

func expectedOf(months []Month) []point {
	out := make([]point, len(months))
	for i := range months {
		if n, ok := rules.RatBps(months[i].Expected); ok {
			out[i] = point{(n + 5) / 10, true}
		}
	}
	return out
}

func (c *chart) panel(p *panel, months []Month) {
	most := int64(1)
	for _, s := range p.series {
		for _, at := range s.points {
			most = max(most, at.value)
		}
	}
	for _, b := range p.bands {
		most = max(most, b.high)
	}
	step, most := scale(most)
	y := func(v int64) int64 { return 10*p.bottom - part(v, 10*(p.bottom-p.top), most) }
	x := func(i int) int64 { return 10*left + part(int64(2*i+1), 10*(right-left), int64(2*len(months))) }

	c.text(left, p.top-12, "start", "#000000", 14, p.title)
	for _, b := range p.bands {
		fmt.Fprintf(&c.b, `<rect x="%d" y="%s" width="%d" height="%s" fill="#e8f3ec"/>`+"\n", left, tenth(y(b.high)), right-left, tenth(y(b.low)-y(b.high)))
		c.text(right-6, y(b.low)/10-5, "end", green, 11, b.name)
	}
	for v := int64(0); v <= most; v += step {
		fmt.Fprintf(&c.b, `<line x1="%d" y1="%s" x2="%d" y2="%s" stroke="#dddddd"/>`+"\n", left, tenth(y(v)), right, tenth(y(v)))
		c.text(left-8, y(v)/10+4, "end", grey, 12, p.label(v))
	}
	c.months(p, months, x)
	for i, s := range p.series {
		c.series(&s, x, y)
		at := p.top + 8 + int64(i)*line
		fmt.Fprintf(&c.b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2.5"%s/>`+"\n", legend, at, legend+34, at, s.color, dashes(s.dash))
		c.text(legend+42, at+4, "start", "#000000", 13, s.name)
	}
}

// months marks where epochs begin and numbers some of the months.
func (c *chart) months(p *panel, months []Month, x func(int) int64) {
	every := max(1, (len(months)+23)/24)
	for i := range months {
		m := &months[i]
		if m.Month == 0 {
			at := x(i) - part(1, 10*(right-left), int64(2*len(months)))
			fmt.Fprintf(&c.b, `<line x1="%s" y1="%d" x2="%s" y2="%d" stroke="#bbbbbb" stroke-dasharray="1 3"/>`+"\n", tenth(at), p.top, tenth(at), p.bottom)
			if len(months) <= 60 && p.unit == 1 {
				c.text(at/10+3, p.bottom-5, "start", grey, 10, m.Phase)
			}
		}
		if i%every == 0 {
			c.text(x(i)/10, p.bottom+16, "middle", grey, 11, fmt.Sprint(m.Number))
		}
		if m.WarmUp && i+1 < len(months) && !months[i+1].WarmUp && p.unit > 1 {
			at := tenth((x(i) + x(i+1)) / 2)
			fmt.Fprintf(&c.b, `<line x1="%s" y1="%d" x2="%s" y2="%d" stroke="%s"/>`+"\n", at, p.top, at, p.bottom, grey)
			c.text((x(i)+x(i+1))/20-4, p.bottom-6, "end", grey, 10, "warm-up")
		}
	}
}

func (c *chart) series(s *series, x func(int) int64, y func(int64) int64) {
	var path strings.Builder
	draw := "M"
	for i, at := range s.points {
		if !at.ok {
			draw = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%s %s", draw, tenth(x(i)), tenth(y(at.value)))
		draw = "L"
	}
	if path.Len() > 0 {
		fmt.Fprintf(&c.b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path.String(), s.color, dashes(s.dash))
	}
}

func dashes(d string) string {
	if d == "" {
		return ""
	}
	return fmt.Sprintf(` stroke-dasharray="%s"`, d)
}

func (c *chart) text(x, y int64, anchor, color string, size int, text string) {
	fmt.Fprintf(&c.b, `<text x="%d" y="%d" text-anchor="%s" fill="%s" font-size="%d">%s</text>`+"\n", x, y, anchor, color, size, html.EscapeString(text))
}

// tenth writes tenths of a pixel.
func tenth(n int64) string { return fmt.Sprintf("%d.%d", n/10, n%10) }

// label writes a value of an axis.
func (p *panel) label(v int64) string {
	if p.unit == 1 {
		return grouped(v)
	}
	return strings.TrimSuffix(strings.TrimRight(big.NewRat(v, p.unit).FloatString(3), "0"), ".")
}

// grouped writes a number with thin spaces between its thousands.
func grouped(v int64) string {
	s := fmt.Sprint(v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// scale gives a round step of an axis, of four to ten parts, and where the axis ends.
func scale(most int64) (step, end int64) {
	step = 1
	for {
		for _, by := range []int64{1, 2, 5} {
			if step*by*8 >= most {
				step *= by
				return step, (most + step - 1) / step * step
			}
		}
		step *= 10
	}
}
