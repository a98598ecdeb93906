package identity

import (
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
)

// A handle under a name that may not be resolved must not spoil the DID it stands in: nothing is asked for it, and the DID keeps its keys.
func TestAHandleThatCannotBeResolvedDoesNotSpoilItsDID(t *testing.T) {
	t.Parallel()
	for _, handle := range []string{"alice.example", "alice.internal", "alice.local", "alice.localhost", "alice.test", "not a handle", ""} {
		id, err := parseDocument(me, []byte(`{"id":"`+me.String()+`","alsoKnownAs":["at://`+handle+`"],"service":[{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"https://pds.test"}]}`))
		require.NoError(t, err, handle)
		require.Equal(t, syntax.HandleInvalid, id.Handle, "nobody checked it")
		require.Equal(t, "https://pds.test", id.PDSEndpoint())
	}
}
