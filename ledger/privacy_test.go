package ledger

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// spellings are the forms in which a token could stand in an answer.
func spellings(t *testing.T, token string) []string {
	t.Helper()
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(token, "="))
	require.NoError(t, err)
	return []string{hex.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)}
}

// Whoever cites a claim in a verification must not be told its token: claim and mint would be joined for everybody.
func TestCitingAClaimThatIsNotPublicTellsNobodyItsToken(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	open := c.task(c.parks, c.catalog(c.parks, entryOptions{sensitivity: "public"}), 2)
	ana := c.resident("ana")
	claim := ana.claim(task)
	ben := c.resident("ben")
	over := ben.claim(task)
	withheld := append(spellings(t, c.claimToken(c.library, claim)), spellings(t, c.claimToken(c.library, over))...)
	ben.del(lexicons.WorkClaim, claimKey(task, "s1"))

	for _, cited := range []strong{claim, over} {
		for _, of := range []strong{task, open} {
			for _, author := range []*actor{c.parks, c.library, c.pool, ana} {
				r := verification(of, "", 24)
				r["subject"] = map[string]any{"$type": lexicons.WorkVerification + "#publicClaim", "claim": cited, "proof": cited}
				said, err := json.Marshal(c.explain(author.put(lexicons.WorkVerification, c.tid(), r)).Body)
				require.NoError(t, err)
				for _, token := range withheld {
					require.NotContains(t, string(said), token)
				}
			}
		}
	}
}

// What explain says of a claim or a proof of a task that is not public stays the same through its mint.
func TestExplainNeverJoinsAClaimToItsMint(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	claim := ana.claim(task)
	proof := ana.proof(task, claim)
	token := c.claimToken(c.library, claim)
	claimed, accepted := c.status(claim, "claimed").Body, c.status(proof, "accepted").Body
	c.clock.Advance(time.Minute)
	c.status(c.verify(c.library, task, token), "minted")
	require.Equal(t, claimed, c.explain(claim).Body, "the time of its last change would tell when it was minted")
	require.Equal(t, accepted, c.explain(proof).Body)
	for _, word := range []string{"seq", "figures", "message", "waitingFor"} {
		require.NotContains(t, claimed, word)
		require.NotContains(t, accepted, word)
	}
}

// Evidence is kept for what the log rests on. A person's claim or proof is not: once deleted it is not handed out either.
func TestEvidenceIsOfOrganizationsOnly(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	claim := ana.claim(task)
	proof := ana.proof(task, claim)
	verified := c.verify(c.library, task, c.claimToken(c.library, claim))
	own := ana.put(lexicons.WorkTask, c.tid(), c.taskRecord(c.catalog(c.library, entryOptions{}), 1))
	for _, ref := range []strong{task, verified, c.params, c.swim} {
		assert.Equal(t, 200, c.get("/evidence/"+ref.CID+".car").Code, ref.URI)
	}
	worker := c.parks.claim(task) // a claim is a person's, whoever's account it is from
	for _, ref := range []strong{claim, proof, own, worker} {
		assert.Equal(t, 404, c.get("/evidence/"+ref.CID+".car").Code, ref.URI)
		did, _, _ := strings.Cut(strings.TrimPrefix(ref.URI, "at://"), "/")
		assert.Equal(t, 404, c.get("/evidence/"+ref.CID+".car?did="+did).Code, ref.URI)
	}
	c.accredit(c.library, "revoked", "issuer", "verifier")
	assert.Equal(t, 200, c.get("/evidence/"+verified.CID+".car").Code, "what a revoked organization signed is still evidence")
}

// No leaf, nothing public, holds a person: not as DID, not as account.
func TestNothingPublishedNamesAPerson(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil)
	require.Equal(t, "redeemed", c.scan(c.till, code.str("code"), "confirm", 0).str("status"))
	fake := newFake()
	_, err := c.publisher(fake).step(c.ctx, true)
	require.NoError(t, err)
	receipts, err := json.Marshal(fake.records)
	require.NoError(t, err)
	require.Contains(t, string(receipts), lexicons.LedgerReceipt)

	var account []byte
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select account from account_link where did = $1`, ana.did.String()).Scan(&account))
	person := append([]string{ana.did.String(), strings.TrimPrefix(ana.did.String(), "did:plc:"), string(account)},
		spellings(t, base64.RawStdEncoding.EncodeToString(account))...)
	rows, err := c.world.pool.Query(c.ctx, `select leaf from entry order by seq`)
	require.NoError(t, err)
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(t, err)
	kinds := map[entry.Kind]bool{}
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		kinds[e.Kind] = true
		for _, name := range person {
			require.NotContains(t, string(leaf), name, "entry %d, %s", e.Seq, e.Kind)
		}
	}
	for _, k := range []entry.Kind{entry.KindActivate, entry.KindClaim, entry.KindMint, entry.KindBurn} {
		require.True(t, kinds[k], "the test needs a %s", k)
	}
	public := []string{
		c.get("/checkpoint").Body.String(), c.get("/.well-known/citysync.json").Body.String(), string(receipts),
		c.get("/xrpc/" + nsid + "listReceipts?limit=100").Body.String(), c.get("/xrpc/" + nsid + "getCapacity").Body.String(),
	}
	for _, text := range public {
		for _, name := range person {
			require.NotContains(t, text, name)
		}
	}
}

// With an epoch's key the tokens of an account could be told for ever. It is destroyed, and a claim that comes for that epoch is refused as before.
func TestKeyOfAnEpochIsDestroyedWhenItIsLongOver(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	ana := c.resident("ana")
	keys := func() (n int) {
		require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count(*) from epoch_key`).Scan(&n))
		return n
	}
	end := time.Date(2027, 3, 29, 7, 0, 0, 0, time.UTC)
	c.clock.Advance(end.Add(keepKeys - time.Second).Sub(c.clock.Now()))
	c.sweep()
	require.Equal(t, 1, keys())
	c.clock.Advance(time.Second)
	c.sweep()
	require.Zero(t, keys())
	c.refused(ana.claim(task), "ClaimWindowClosed")
	c.restart()
}
