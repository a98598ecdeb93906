package rules

import (
	"slices"
	"strings"
)

// Cell is one published figure about people, by category.
type Cell struct {
	Category              string
	People, Mints, Issued int64
	Suppressed            bool // the figures are withheld
}

// Suppress withholds every cell of fewer than k people, and as many of the next smallest that none of those withheld can be computed
// from the totals and the others: two at least, k people or more together, and not just one in each. Where that takes all of them,
// none is published, nor their names.
func Suppress(cells []Cell, k int64) []Cell {
	list := slices.Clone(cells)
	slices.SortFunc(list, func(a, b Cell) int {
		if a.People != b.People {
			return int(max(-1, min(1, a.People-b.People)))
		}
		return strings.Compare(a.Category, b.Category)
	})
	var withheld, people int64
	for i := range list {
		small := list[i].People < k
		if !small && (withheld == 0 || (withheld >= 2 && people >= k && people > withheld)) {
			break
		}
		withheld++
		people += list[i].People
		list[i] = Cell{Category: list[i].Category, Suppressed: true}
	}
	if int(withheld) == len(list) && withheld > 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b Cell) int { return strings.Compare(a.Category, b.Category) })
	return list
}
