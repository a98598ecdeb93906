package ledger

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// A DID with a percent sign is no record key: an accreditation stands under H(did) then. Under any other key it is not that organization's.
func TestAnAccreditationStandsUnderTheDIDOrItsHash(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	port := "did:web:town.example%3A8080"
	for _, one := range []struct{ org, key, want string }{
		{port, lexicons.Key(lexicons.RegistryAccreditation, port), "accepted"},
		{port, c.parks.did.String(), "refused"},
		{c.library.did.String(), lexicons.Key(lexicons.RegistryAccreditation, c.library.did.String()), "refused"},
		{c.library.did.String(), c.pool.did.String(), "refused"},
		{c.library.did.String(), c.library.did.String(), "accepted"},
	} {
		ref := c.city.put(lexicons.RegistryAccreditation, one.key, map[string]any{
			"org": one.org, "roles": []any{"org.city-sync.defs#roleIssuer"}, "status": "active", "validFrom": "2027-01-01T00:00:00Z",
			"decision": c.decision, "perEpochLimit": 7,
		})
		assert.Equal(t, one.want, c.explain(ref).str("status"), "%s under %s", one.org, one.key)
	}
}

// What others signed is kept as they signed it: fields that no type of ours has are there, and the bytes hash to the CID.
func TestRecordsAreKeptAsTheyWereSigned(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	r := c.taskRecord(c.catalog(c.library, entryOptions{}), 1)
	r["ofTomorrow"] = map[string]any{"b": 1, "a": []any{"x"}}
	task := c.signedTask(r)
	var cbor []byte
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select cbor from fact where uri = $1`, task.URI).Scan(&cbor))
	require.Equal(t, task.CID, repo.CIDForCBOR(cbor).String())
	require.Contains(t, string(cbor), "ofTomorrow")
	pub, err := c.library.key.PublicKey()
	require.NoError(t, err)
	proved, err := repo.VerifyProof(c.get("/evidence/"+task.CID+".car").Body.Bytes(), c.library.did, pub, lexicons.WorkTask+"/"+rkeyOf(task))
	require.NoError(t, err)
	require.Equal(t, cbor, proved.Record)
}

func (c *founded) signedTask(record map[string]any) strong {
	c.t.Helper()
	ref := c.library.put(lexicons.WorkTask, c.tid(), record)
	c.status(ref, "accepted")
	return ref
}

// Methods that act for somebody answer nobody else: no token is a refusal, never a way through.
func TestMethodsThatActForSomebodyNeedTheirToken(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	for _, m := range []struct {
		method string
		body   any
	}{
		{"getBalance", nil}, {"listClaims", nil}, {"activate", map[string]any{}}, {"bindTill", map[string]any{}},
		{"createRedemption", map[string]any{}}, {"openEpoch", map[string]any{}}, {"resetTill", map[string]any{}},
		{"createHold", map[string]any{}}, {"issueCard", map[string]any{}}, {"endCard", map[string]any{}},
	} {
		res := c.call(nil, m.method, "", m.body)
		assert.Equal(t, http.StatusUnauthorized, res.Status, m.method)
		assert.NotContains(t, res.Body, "claims", m.method)
	}
	for _, m := range []string{
		"updateRedemption", "openTill", "closeTill", "captureHold", "createCardRedemption", "endHold", "getTillSlip",
	} {
		res := c.call(nil, m, "", map[string]any{})
		assert.Equal(t, http.StatusBadRequest, res.Status, "%s: its signature stands in its body", m)
	}
}
