package city

import "fmt"

// Phases of the cap policy.
const (
	PhaseLaunch = "launch"
	PhaseSteady = "steady"
)

// Parameters are the numbers of the city's first parameter set.
type Parameters struct {
	CapPhaseBps    int64
	CapShareBps    int64
	ASCRMaxMilli   int64
	DeltaCapBps    int64
	RStartBps      int64
	DeltaStartBps  int64
	Tiers          []Tier
	DormancyMonths int64
	WarmUpMonths   int64
	ClaimLimit     int64
	ClaimLapseDays int64
	VotesPerCredit int64
	KMin           int64
}

// Tier is one pay tier.
type Tier struct {
	N              int
	CreditsPerHour int64
	BandBps        int64
}

// DefaultParameters are the ones a city starts with unless its folder says otherwise.
func DefaultParameters() Parameters {
	return Parameters{
		CapPhaseBps:   5000,
		CapShareBps:   7000,
		ASCRMaxMilli:  4000,
		DeltaCapBps:   100,
		RStartBps:     1500,
		DeltaStartBps: 300,
		Tiers: []Tier{
			{N: 1, CreditsPerHour: 8},
			{N: 2, CreditsPerHour: 12},
			{N: 3, CreditsPerHour: 16},
			{N: 4, CreditsPerHour: 20},
		},
		DormancyMonths: 12,
		WarmUpMonths:   5,
		ClaimLimit:     5,
		ClaimLapseDays: 14,
		VotesPerCredit: 1,
		KMin:           10,
	}
}

// Tier finds a tier by its number.
func (p Parameters) Tier(n int) (Tier, bool) {
	for _, t := range p.Tiers {
		if t.N == n {
			return t, true
		}
	}
	return Tier{}, false
}

// InBand tells whether credits for so many minutes lie within the tier's band:
// |credits − rate × hours| ≤ rate × hours × band, compared in integers.
func (t Tier) InBand(credits int64, minutes int) bool {
	base := t.CreditsPerHour * int64(minutes) // credits × 60
	diff := credits*60 - base
	if diff < 0 {
		diff = -diff
	}
	return diff*10000 <= base*t.BandBps
}

// Refusal is a row that a city rule refuses. The rest of the city starts.
type Refusal struct {
	Row     string // id of the catalog entry or offering
	Name    string // the rule's name, as the ledger says it
	Message string
}

// Refusals lists the rows that the city's rules refuse, in the folder's order.
func (c *City) Refusals() []Refusal {
	var out []Refusal
	for _, e := range c.Catalog {
		if r := c.RefuseEntry(e); r != nil {
			out = append(out, *r)
		}
	}
	for _, o := range c.Offerings {
		if r := RefuseOffering(o); r != nil {
			out = append(out, *r)
		}
	}
	return out
}

// RefuseEntry says why a catalog row cannot be approved, nil where it can.
func (c *City) RefuseEntry(e Entry) *Refusal {
	tier, ok := c.Params.Tier(e.Tier)
	if !ok {
		return &Refusal{e.ID, "OutsideTierBand", fmt.Sprintf("tier %d is not in the parameter set", e.Tier)}
	}
	if !tier.InBand(e.Credits, e.Minutes) {
		return &Refusal{e.ID, "OutsideTierBand", fmt.Sprintf("%d credits for %d minutes; tier %d pays %d an hour, band %d bps",
			e.Credits, e.Minutes, tier.N, tier.CreditsPerHour, tier.BandBps)}
	}
	return nil
}

// RefuseOffering says why an offering counts nothing, nil where it counts.
func RefuseOffering(o Offering) *Refusal {
	switch {
	case o.PublicPriceMinor == nil:
		return &Refusal{o.ID, "PublicPriceZero", "no public price is stated"}
	case *o.PublicPriceMinor == 0:
		return &Refusal{o.ID, "PublicPriceZero", "the public price is 0"}
	}
	return nil
}
