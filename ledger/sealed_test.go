package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

// work calls a method of the group work as a resident.
func (a *actor) work(method string, body map[string]any) answer {
	a.w.t.Helper()
	tok, err := xrpc.SignServiceToken(a.key, a.did.String(), a.w.cfg.DID.String()+"#citysync_ledger", workNSID+method, a.w.clock.Now(), time.Minute)
	require.NoError(a.w.t, err)
	raw, err := json.Marshal(body)
	require.NoError(a.w.t, err)
	req := httptest.NewRequestWithContext(a.w.ctx, http.MethodPost, "/xrpc/"+workNSID+method, bytes.NewReader(raw))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+tok)
	rec := httptest.NewRecorder()
	a.w.l.Handler().ServeHTTP(rec, req)
	out := answer{Status: rec.Code}
	_ = json.Unmarshal(rec.Body.Bytes(), &out.Body)
	return out
}

func (a *actor) sealedClaim(task strong, key string) answer {
	return a.work("createSealedClaim", map[string]any{"task": task, "shiftId": "s1", "idempotencyKey": key})
}

func sealedToken(r answer) string {
	token, _ := r.Body["claimToken"].(map[string]any)
	s, _ := token["$bytes"].(string)
	return s
}

func commitment() map[string]any {
	return map[string]any{
		"alg": "sha256-merkle-v1", "value": map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(make([]byte, 32))}, "padded": 8,
	}
}

// The whole way of a sealed task: claimed, proved, verified and paid, and no record of the resident anywhere.
func TestSealedTaskIsPaidWithoutAnyRecordOfTheResident(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{sensitivity: "sealed"}), 2)
	ana := c.resident("ana")
	c.refused(ana.claim(task), "SealedTask") // a public claim is refused; who sent it told the world
	ben := c.resident("ben")
	require.Equal(t, "NotActivated", c.actor("nobody").sealedClaim(task, "k").name())
	held := ben.sealedClaim(task, "k")
	require.Equal(t, 200, held.Status, "%v", held.Body)
	require.Equal(t, held.Body, ben.sealedClaim(task, "k").Body)
	require.Equal(t, "AlreadyClaimed", ben.sealedClaim(task, "l").name())
	token := sealedToken(held)

	res := c.call(c.library, "listClaims", "", nil)
	list, _ := res.Body["claims"].([]any)
	require.Len(t, list, 1)
	view, _ := list[0].(map[string]any)
	require.Equal(t, map[string]any{"$bytes": token}, view["claimToken"])
	require.NotContains(t, view, "claim")
	said, err := json.Marshal(res.Body)
	require.NoError(t, err)
	require.NotContains(t, string(said), ben.did.String())

	c.restart() // what is only held stays
	prove := map[string]any{"claimToken": map[string]any{"$bytes": token}, "commitment": commitment(), "idempotencyKey": "p"}
	require.Equal(t, "ClaimMissing", ana.work("createSealedProof", prove).name(), "another's claim")
	require.Equal(t, "proved", ben.work("createSealedProof", prove).str("status"))
	gone := map[string]any{"claimToken": map[string]any{"$bytes": token}, "idempotencyKey": "d"}
	require.Equal(t, "ProofSubmitted", ben.work("deleteSealedClaim", gone).name())
	v := c.verify(c.library, task, token)
	c.status(v, "minted")
	require.EqualValues(t, 24, c.balance(ben))
	var n int
	const records = `select count(*) from fact where did = $1`
	require.NoError(t, c.world.pool.QueryRow(c.ctx, records, ben.did.String()).Scan(&n))
	require.Zero(t, n)
	for _, e := range []answer{c.explain(v), c.capacity()} {
		said, err := json.Marshal(e.Body)
		require.NoError(t, err)
		require.NotContains(t, string(said), ben.did.String())
	}
	c.restart()
}

func TestSealedClaimIsWithdrawn(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{sensitivity: "sealed"}), 1)
	open := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana, ben := c.resident("ana"), c.resident("ben")
	require.Equal(t, "NotSealed", ana.sealedClaim(open, "o").name())
	require.Equal(t, "TaskNotAccepted", ana.sealedClaim(strong{task.URI + "x", task.CID}, "x").name())
	token := sealedToken(ana.sealedClaim(task, "k"))
	require.Equal(t, "SlotsFull", ben.sealedClaim(task, "k").name())
	gone := map[string]any{"claimToken": map[string]any{"$bytes": token}, "idempotencyKey": "d"}
	require.Equal(t, "ClaimMissing", ben.work("deleteSealedClaim", gone).name())
	require.Equal(t, "withdrawn", ana.work("deleteSealedClaim", gone).str("status"))
	require.Equal(t, 200, ben.sealedClaim(task, "l").Status)
	require.Equal(t, "SlotsFull", ana.sealedClaim(task, "m").name())
	require.True(t, strings.HasPrefix(sealedURI([]byte{1}), "sealed:"), "no record's address")
}
