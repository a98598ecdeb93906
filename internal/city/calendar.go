package city

import (
	"fmt"
	"time"
)

// Weeks is how many whole weeks the folder's dates move so that the day of now,
// in the city's zone, lies in the second week of the epoch.
func (c *City) Weeks(now time.Time) int {
	loc := c.Location()
	days := civilDay(now.In(loc)) - civilDay(c.Epoch.StartsAt.In(loc))
	return floorDiv(days, 7) - 1
}

// Shift moves every date by whole weeks, as local time in the city's zone: a date
// at 09:00 stays at 09:00 across a change of clocks. The epoch's key stays.
func (c *City) Shift(weeks int) {
	loc := c.Location()
	c.Epoch.StartsAt = addDays(c.Epoch.StartsAt, 7*weeks, loc)
	c.Epoch.EndsAt = addDays(c.Epoch.EndsAt, 7*weeks, loc)
	c.Epoch.Months = months(c.Epoch.StartsAt, c.Epoch.EndsAt, loc)
}

// months cuts the epoch into three runs of whole weeks, as equal as whole weeks
// allow (12 weeks give 4, 4 and 4); the last one ends with the epoch. They are
// review months with stated bounds, not calendar months.
func months(from, to time.Time, loc *time.Location) []Span {
	weeks := (civilDay(to.In(loc)) - civilDay(from.In(loc))) / 7
	out := make([]Span, 0, 3)
	start := from
	for i := 1; i <= 3; i++ {
		end := addDays(from, 7*(weeks*i/3), loc)
		if i == 3 {
			end = to
		}
		out = append(out, Span{start, end})
		start = end
	}
	return out
}

// minWeeks is the shortest epoch: each of its three months has a week.
const minWeeks = 3

func checkEpoch(e Epoch, loc *time.Location) error {
	if !e.StartsAt.Before(e.EndsAt) {
		return fmt.Errorf("the epoch must end after it starts")
	}
	if civilDay(e.EndsAt.In(loc))-civilDay(e.StartsAt.In(loc)) < 7*minWeeks {
		return fmt.Errorf("an epoch has at least %d weeks, one for each of its months", minWeeks)
	}
	return nil
}

func addDays(t time.Time, days int, loc *time.Location) time.Time {
	l := t.In(loc)
	return time.Date(l.Year(), l.Month(), l.Day()+days, l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), loc)
}

// civilDay numbers the calendar day of t, so that days of 23 and 25 hours count as one.
func civilDay(t time.Time) int {
	y, m, d := t.Date()
	return int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}
