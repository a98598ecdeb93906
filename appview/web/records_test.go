package web

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// version stores the content of a record, which must follow its schema, and gives its CID.
func version(t *testing.T, pool *pgxpool.Pool, did, nsid, rkey string, record map[string]any) string {
	t.Helper()
	record["$type"] = nsid
	raw, err := json.Marshal(record)
	require.NoError(t, err)
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	require.NoError(t, err)
	require.NoError(t, lexicons.Validate(nsid, rkey, cbor))
	cid := repo.CIDForCBOR(cbor).String()
	_, err = pool.Exec(t.Context(), `insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values (@did, @coll, @rkey, @cid, '3k', @cbor, now())`,
		pgx.NamedArgs{"did": did, "coll": nsid, "rkey": rkey, "cid": cid, "cbor": cbor})
	require.NoError(t, err)
	return cid
}

const now = "2027-04-01T10:00:00.000Z"

func strong(uri string) map[string]any { return map[string]any{"uri": uri, "cid": logtest.CID} }

// report stores the ledger's report on the story's epoch.
func report(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	month := func(n int, issued, burned, quiet, expired, dormant int64) map[string]any {
		return map[string]any{"startsAt": logtest.Month(n).StartsAt, "endsAt": logtest.Month(n).EndsAt, "issued": issued, "burned": burned, "quiet": quiet,
			"reactivated": 0, "expired": expired, "active": 80, "dormant": dormant, "warmUp": n == 0}
	}
	months := []any{month(0, logtest.Minted, logtest.Burned, 9, 0, 9), month(1, 0, 0, 0, logtest.Expired, 5), month(2, 0, 0, 0, 0, 5)}
	months[0].(map[string]any)["expectedEfficiencyBps"] = 2500
	months[1].(map[string]any)["alarms"] = []any{map[string]any{"indicator": "backlog", "mode": "over-issuance", "response": "danger", "value": 6100}}
	key := lexicons.ReportKey(logtest.Book, logtest.Epoch, "")
	cid := version(t, pool, logtest.Origin, lexicons.LedgerEpochReport, key, map[string]any{
		"book": logtest.Book, "epoch": logtest.Epoch, "capacity": 200, "cap": 384, "issued": logtest.Minted, "burned": logtest.Burned, "expired": logtest.Expired,
		"active": 80, "dormant": 5, "months": months, "byCategory": []any{map[string]any{"category": "library", "suppressed": true}, map[string]any{"category": "parks", "people": 12, "mints": 14, "issued": 90}},
		"parameterSet": strong("at://" + logtest.City + "/org.city-sync.gov.parameterSet/3mcx5l2w5ss2p"),
		"toCheckpoint": strong("at://" + logtest.Origin + "/org.city-sync.ledger.checkpoint/000000000043"), "createdAt": now})
	_, err := pool.Exec(t.Context(), "insert into epoch_report (did, rkey, cid, book, epoch) values ($1, $2, $3, $4, $5)", logtest.Origin, key, cid, logtest.Book, logtest.Epoch)
	require.NoError(t, err)
}

func TestDisputePageShowsTheCitysAnswersAndMarksThoseOfOthers(t *testing.T) {
	t.Parallel()
	p, _, pool := town(t)
	assert.Contains(t, read(t, p, "/disputes"), phrase("en", "noDisputes"))
	const did, uri = "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/org.city-sync.gov.dispute/3mcx5l2w5ss2d"
	put := func(sql string, args ...any) {
		t.Helper()
		_, err := pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	put(`insert into dispute (did, rkey, cid, subject, subject_cid, kind, summary, remedy, created)
values ($1, '3mcx5l2w5ss2d', 'c', $2, 'c', 'org.city-sync.defs#disputeNonDisplacement', '<b>Paid</b> before', 'End the task', now())`, did, logtest.Task)
	path := disputePath(uri)
	assert.Contains(t, read(t, p, path), phrase("en", "noAnswer"))
	const answer = `insert into resolution (did, rkey, cid, dispute_uri, result, reasons, created) values ($1, $2, 'c', $3, $4, $5, now())`
	put(answer, logtest.Library.String(), "e7ef6vaq4xzu6s5yxnzjyiexmp", uri, "dismissed", "We say no.")
	assert.Contains(t, read(t, p, path), phrase("en", "noAnswer"), "only the city answers")
	put(answer, logtest.City, "e7ef6vaq4xzu6s5yxnzjyiexmp-hold", uri, "admitted", "It names a paid post.")
	put(answer, logtest.City, "e7ef6vaq4xzu6s5yxnzjyiexmp", uri, "upheld", "The post was paid.")
	for _, lang := range []string{"en", "es"} {
		for _, path := range []string{path, "/disputes", taskPath(logtest.Task)} {
			code, _, body := get(t, p, path+"?lang="+lang)
			require.Equal(t, http.StatusOK, code, path)
			assert.NotContains(t, body, "<b>", "a stranger's words are text")
			said := read(t, p, path+"?lang="+lang)
			assert.Empty(t, bare.FindString(said), path)
			assert.Contains(t, said, phrase(lang, "state.upheld"), path)
		}
		said := read(t, p, path+"?lang="+lang)
		assert.Contains(t, said, "It names a paid post.")
		assert.Contains(t, said, phrase(lang, "refused.not-the-city"))
		assert.NotContains(t, said, "We say no.")
		assert.Contains(t, said, phrase(lang, "inTheLog"), "the log made a pause and its end of them")
	}
}
