package index

import "city-sync.org/citysync/lexicons/citysync"

func offeringRow(cbor []byte) (row, error) {
	o, err := decode[citysync.OfferOffering](cbor)
	if err != nil {
		return nil, err
	}
	r := row{"title": o.Title, "summary": text(o.Summary), "epoch": o.Epoch, "book": o.Book, "credits_per_unit": o.CreditsPerUnit,
		"unit_label": o.UnitLabel, "committed_month": o.Capacity.CommittedMonth, "public_price_minor": o.PublicPriceMinor, "currency": o.Currency, "supersedes": nil}
	if o.Supersedes != nil {
		r["supersedes"] = o.Supersedes.Uri
	}
	return r, nil
}

func offeringStatusRow(cbor []byte) (row, error) {
	s, err := decode[citysync.OfferOfferingStatus](cbor)
	if err != nil {
		return nil, err
	}
	return row{"status": s.Status, "offering_uri": s.Offering.Uri}, nil
}

func redemptionRow(cbor []byte) (row, error) {
	r, err := decode[citysync.OfferRedemption](cbor)
	if err != nil {
		return nil, err
	}
	return row{"offering_uri": r.Offering.Uri, "receipt_uri": r.Receipt.Uri, "outcome": r.Outcome, "units": r.Units, "day": r.Day}, nil
}
