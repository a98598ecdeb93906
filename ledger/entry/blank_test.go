package entry_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

func TestBlankCommitmentCommitsAsOneThatIsMadeAtOnce(t *testing.T) {
	t.Parallel()
	list := samples(t)
	for _, sealed := range []entry.Sealed{
		{}, {Account: entry.Account{1}}, {At: "2027-01-04T18:00:00Z"}, {Account: entry.Account{1}, Resident: "did:plc:a"},
		{Account: entry.Account{1}, At: "2027-01-04T18:00:00Z", Resident: "did:plc:a", Org: "did:plc:b", Seed: make([]byte, 32)},
	} {
		list = append(list, &entry.Entry{Kind: entry.KindMint, Sealed: &sealed})
	}
	for _, e := range list {
		want, err := e.Seal(random())
		require.NoError(t, err)
		commitment := e.Commitment
		b, err := entry.NewBlank(random())
		require.NoError(t, err)
		got, err := e.SealOn(b)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, commitment, e.Commitment)
		if e.Sealed == nil {
			continue
		}
		require.NoError(t, got.Verify(*e.Commitment))
		_, err = e.SealOn(b)
		require.Error(t, err, "salts are never used twice")
	}
}
