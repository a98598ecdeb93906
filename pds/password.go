package pds

import "city-sync.org/citysync/internal/secret"

// Argon2 sets the cost of a password hash. A stored hash carries its own cost, so a
// change applies to passwords set from then on.
type Argon2 = secret.Cost

const (
	passwordMin = 8
	passwordMax = secret.MaxLen
)
