package web

import (
	"city-sync.org/citysync/appview/query"
)

// chart is a plain bar chart: for each month what was issued, what was burned and what people held at its end. Everything in it stands in a
// table beside it.
type chart struct {
	Width, Height, Base int
	Bars                []bar
	Months              []chartText
}

type bar struct {
	X, Y, W, H int
	Class      string // issued | burned | held
	Value      string
}

// Middle is where the bar's figure stands.
func (b bar) Middle() int { return b.X + b.W/2 }

// Above is the line over the bar.
func (b bar) Above() int { return b.Y - 4 }

type chartText struct {
	X    int
	Text string
}

const (
	barWidth   = 32
	barGap     = 3
	groupGap   = 12
	plotHeight = 150
	plotTop    = 20
)

func chartOf(l layout, months []query.Month) chart {
	c := chart{Height: plotTop + plotHeight + 24, Base: plotTop + plotHeight}
	most := int64(1)
	for _, m := range months {
		most = max(most, m.Issued, m.Burned, m.Active+m.Dormant)
	}
	x := groupGap / 2
	for _, m := range months {
		from := x
		for _, b := range []struct {
			class string
			n     int64
			shown bool
		}{{"issued", m.Issued, true}, {"burned", m.Burned, true}, {"held", m.Active + m.Dormant, m.Seq >= 0}} {
			if b.shown {
				h := int(b.n * plotHeight / most)
				c.Bars = append(c.Bars, bar{X: x, Y: c.Base - h, W: barWidth, H: h, Class: b.class, Value: number(b.n)})
			}
			x += barWidth + barGap
		}
		c.Months = append(c.Months, chartText{X: (from + x - barGap) / 2, Text: l.MonthName(m.StartsAt)})
		x += groupGap - barGap
	}
	c.Width = max(x-groupGap/2, 3*(3*(barWidth+barGap)+groupGap)) // one month is not drawn larger than three
	return c
}
