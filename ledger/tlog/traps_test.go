package tlog_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
)

// A note's key name stands in a line that is cut at spaces and plus signs: a log of such a name could never be opened.
func TestAnOriginMustBeAKeyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "did:plc:a b", "did:web:a+b", "a\nb", "a\u00a0b"} {
		_, _, err := tlog.GenerateKey(rand.NewChaCha8([32]byte{}), name)
		require.Error(t, err, "%q", name)
	}
}
