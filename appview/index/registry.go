package index

import "city-sync.org/citysync/lexicons/citysync"

func accreditationRow(cbor []byte) (row, error) {
	a, err := decode[citysync.RegistryAccreditation](cbor)
	if err != nil {
		return nil, err
	}
	from, err := stamp(a.ValidFrom)
	if err != nil {
		return nil, err
	}
	var until any
	if a.ValidUntil != nil {
		if until, err = stamp(*a.ValidUntil); err != nil {
			return nil, err
		}
	}
	return row{"org": a.Org, "roles": list(a.Roles), "status": a.Status, "function_type": text(a.FunctionType), "valid_from": from, "valid_until": until}, nil
}
