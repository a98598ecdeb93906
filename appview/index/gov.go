package index

import "city-sync.org/citysync/lexicons/citysync"

func parameterSetRow(cbor []byte) (row, error) {
	p, err := decode[citysync.GovParameterSet](cbor)
	if err != nil {
		return nil, err
	}
	return row{"effective_epoch": p.EffectiveEpoch}, nil
}

func decisionRow(cbor []byte) (row, error) {
	d, err := decode[citysync.GovDecision](cbor)
	if err != nil {
		return nil, err
	}
	return row{"result": d.Result}, nil
}

func disputeRow(cbor []byte) (row, error) {
	d, err := decode[citysync.GovDispute](cbor)
	if err != nil {
		return nil, err
	}
	created, err := stamp(d.CreatedAt)
	if err != nil {
		return nil, err
	}
	return row{"subject": d.Subject.Uri, "subject_cid": d.Subject.Cid, "kind": d.Kind, "summary": d.Summary, "remedy": text(d.RequestedRemedy), "created": created}, nil
}

func resolutionRow(cbor []byte) (row, error) {
	r, err := decode[citysync.GovResolution](cbor)
	if err != nil {
		return nil, err
	}
	created, err := stamp(r.CreatedAt)
	if err != nil {
		return nil, err
	}
	return row{"dispute_uri": r.Dispute.Uri, "result": r.Result, "reasons": r.Reasons, "created": created}, nil
}
