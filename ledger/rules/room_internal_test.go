package rules

import (
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

// Allocations sum to no more than the cap, so no command gets as far as the cap; it is held all the same. L7
func TestRoomHoldsTheCapWhateverTheAllocations(t *testing.T) {
	t.Parallel()
	ep := &epoch{open: entry.EpochOpen{Cap: 100}, issuers: map[syntax.DID]*issuer{"did:plc:a": {allocation: 1000}}}
	ep.minted, ep.outstanding = 40, 50
	require.NoError(t, ep.room("did:plc:a", 10, nil))
	require.Equal(t, CapExceeded, Refused(ep.room("did:plc:a", 11, nil)))
	require.Equal(t, AllocationExceeded, Refused(ep.room("did:plc:b", 1, nil)))
}
