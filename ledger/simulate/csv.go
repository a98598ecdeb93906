package simulate

import (
	"encoding/csv"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// Header are the columns of the CSV: whole credits, then ratios in thousandths, empty where they are not defined.
var Header = []string{
	"month", "epoch", "phase", "capacity", "cap", "boundBy", "shareBound", "backlogBound", "rateR", "rateDelta", "measured",
	"issued", "burned", "quiet", "reactivated", "expired", "active", "dormant", "supply",
	"efficiencyMilli", "expectedEfficiencyMilli", "utilizationMilli", "backlogMilli", "issuanceMilli", "dormancyMilli", "warmUp", "alarms",
}

// WriteCSV writes the months of a run, a row each.
func WriteCSV(w io.Writer, months []Month) error {
	out := csv.NewWriter(w)
	if err := out.Write(Header); err != nil {
		return fmt.Errorf("csv: %w", err)
	}
	for i := range months {
		if err := out.Write(months[i].row()); err != nil {
			return fmt.Errorf("csv: %w", err)
		}
	}
	out.Flush()
	return out.Error()
}

func (m *Month) row() []string {
	var alarms []string
	for _, a := range m.Alarms {
		alarms = append(alarms, a.Mode+"/"+a.Response)
	}
	row := numbers(m.Number, m.EpochNo)
	row = append(row, m.Phase)
	row = append(row, numbers(m.Capacity, m.Cap)...)
	row = append(row, m.BoundBy)
	row = append(row, numbers(m.ShareBound, m.BacklogBound)...)
	row = append(row, fraction(m.Rates.R), fraction(m.Rates.Delta), strconv.FormatBool(m.Measured))
	row = append(row, numbers(m.Flow.I, m.Flow.B, m.Flow.Q, m.Flow.R, m.Flow.X, m.After.A, m.After.D, m.After.Supply())...)
	row = append(row, milli(m.Efficiency), milliRat(m.Expected), milli(m.Utilization), milli(m.Backlog), milli(m.Issuance), milli(m.Engagement))
	return append(row, strconv.FormatBool(m.WarmUp), strings.Join(alarms, " "))
}

func numbers(list ...int64) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = strconv.FormatInt(n, 10)
	}
	return out
}

func fraction(r entry.Ratio) string { return fmt.Sprintf("%d/%d", r.Num, r.Den) }

func milli(r entry.Ratio) string {
	if n, ok := rules.Milli(r); ok {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

func milliRat(r *big.Rat) string {
	if r == nil {
		return ""
	}
	scaled := new(big.Rat).Mul(r, big.NewRat(1000, 1))
	scaled.Add(scaled, big.NewRat(1, 2)) // half up
	return new(big.Int).Quo(scaled.Num(), scaled.Denom()).String()
}
