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
