package index

import "city-sync.org/citysync/lexicons/citysync"

func ruleSetRow(cbor []byte) (row, error) {
	s, err := decode[citysync.CatalogRuleSet](cbor)
	if err != nil {
		return nil, err
	}
	return row{"title": s.Title}, nil
}

func entryRow(cbor []byte) (row, error) {
	e, err := decode[citysync.CatalogEntry](cbor)
	if err != nil {
		return nil, err
	}
	r := row{"title": e.Title, "summary": e.Summary, "tier": e.Tier, "credits_per_hour": e.CreditsPerHour, "sensitivity": e.Sensitivity,
		"verification_level": e.VerificationLevel, "origin_uri": nil, "origin_cid": nil, "decision_uri": nil}
	if e.Origin != nil {
		r["origin_uri"], r["origin_cid"] = e.Origin.Uri, e.Origin.Cid
	}
	if e.Decision != nil {
		r["decision_uri"] = e.Decision.Uri
	}
	return r, nil
}

func entryStatusRow(cbor []byte) (row, error) {
	s, err := decode[citysync.CatalogEntryStatus](cbor)
	if err != nil {
		return nil, err
	}
	return row{"status": s.Status, "entry_uri": s.Entry.Uri, "reason": text(s.Reason)}, nil
}
