package index

import "city-sync.org/citysync/lexicons/citysync"

func cityRow(cbor []byte) (row, error) {
	c, err := decode[citysync.ActorCity](cbor)
	if err != nil {
		return nil, err
	}
	return row{"name": c.Name, "tz": c.Tz, "langs": list(c.Langs), "ledger": c.Ledger,
		"log_origin": c.Log.Origin, "log_vkey": c.Log.Vkey, "log_url": c.Log.Url}, nil
}

func declarationRow(cbor []byte) (row, error) {
	d, err := decode[citysync.ActorDeclaration](cbor)
	if err != nil {
		return nil, err
	}
	return row{"roles": list(d.Roles)}, nil
}

func organizationRow(cbor []byte) (row, error) {
	o, err := decode[citysync.ActorOrganization](cbor)
	if err != nil {
		return nil, err
	}
	return row{"name": o.Name, "summary": text(o.Summary), "function_types": list(o.FunctionTypes), "cities": list(o.Cities)}, nil
}
