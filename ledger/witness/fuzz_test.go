package witness_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/witness"
)

// FuzzReadProof gives a checker anybody's file. None that is signed by nobody shows anything.
func FuzzReadProof(f *testing.F) {
	const key = "did:plc:l+08fd9d17+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
	f.Add([]byte(`{"kind":"fork","origin":"did:plc:l","size":3,"a":{"checkpoint":"x","root":"AA=="},"b":{"checkpoint":"y","root":"AQ=="}}`))
	f.Add([]byte(`{"kind":"entry","origin":"did:plc:l","entry":-1,"checkpoint":"x","leaf":"AA==","inclusion":["AA=="],"before":["AA=="]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := witness.ReadProof(data)
		if err != nil {
			require.ErrorIs(t, err, witness.ErrProof)
			return
		}
		_, err = p.Check([]string{key}, nil)
		require.ErrorIs(t, err, witness.ErrProof)
	})
}
