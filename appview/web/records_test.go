package web

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/lexicons"
)

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
	put("update dispute set kind = 'org.example.defs#noise'")
	assert.Contains(t, read(t, p, path), "Objection: org.example.defs#noise", "a kind of somebody's own is shown as it was written")
	put("update dispute set kind = 'org.city-sync.defs#disputeNonDisplacement'")
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

func TestReceiptRecordLeadsToWhatReversedIt(t *testing.T) {
	t.Parallel()
	p, told, pool := town(t)
	rkey := lexicons.SeqKey(told.Seq["corrected"])
	for _, did := range []string{logtest.Origin, logtest.Museum.String()} {
		for _, sql := range []string{
			`insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values ($1, 'org.city-sync.ledger.receipt', $2, 'bafyr', '3k', '\xa0', now())`,
			`insert into record (did, coll, rkey, cid, rev, indexed) values ($1, 'org.city-sync.ledger.receipt', $2, 'bafyr', '3k', now())`,
		} {
			_, err := pool.Exec(t.Context(), sql, did, rkey)
			require.NoError(t, err)
		}
	}
	path := "/org.city-sync.ledger.receipt/" + rkey
	said := read(t, p, "/record/"+logtest.Origin+path)
	assert.Contains(t, said, phrase("en", "refer.reverse"))
	assert.Contains(t, said, phrase("en", "receiptOpen"))
	assert.NotContains(t, read(t, p, "/record/"+logtest.Museum.String()+path), phrase("en", "refer.reverse"), "a stranger's receipt is about no entry")
}

// A record of the ledger's that is not what its log says is shown as that wherever it is met.
func TestARecordThatDiffersFromTheLogIsShownAsThat(t *testing.T) {
	t.Parallel()
	p, told, pool := town(t)
	seq := told.Seq["mint"]
	rkey := lexicons.SeqKey(seq)
	paths := []string{
		fmt.Sprintf("/entry/%d", seq), fmt.Sprintf("/receipts/%d", seq), "/record/" + logtest.Origin + "/org.city-sync.ledger.receipt/" + rkey, "/log/mint",
	}
	for _, sql := range []string{
		`insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values ($1, 'org.city-sync.ledger.receipt', $2, 'bafyr', '3k', '\xa0', now())`,
		`insert into record (did, coll, rkey, cid, rev, indexed) values ($1, 'org.city-sync.ledger.receipt', $2, 'bafyr', '3k', now())`,
	} {
		_, err := pool.Exec(t.Context(), sql, logtest.Origin, rkey)
		require.NoError(t, err)
	}
	for _, path := range paths {
		assert.NotContains(t, read(t, p, path), phrase("en", "differs"), path)
	}
	_, err := pool.Exec(t.Context(), `insert into log_differs (did, coll, rkey, cid, seq, what, at)
values ($1, 'org.city-sync.ledger.receipt', $2, 'bafyr', $3, E'amount is 17, the entry says 16\n<b>day</b>', now())`, logtest.Origin, rkey, seq)
	require.NoError(t, err)
	for _, path := range paths {
		for _, lang := range []string{"en", "es"} {
			said := read(t, p, path+"?lang="+lang)
			assert.Contains(t, said, phrase(lang, "differs"), path)
			assert.Contains(t, said, "amount is 17, the entry says 16", path)
			assert.Contains(t, said, "<b>day</b>", "a stranger's words are text")
		}
	}
	_, err = pool.Exec(t.Context(), `update record set cid = 'bafynext' where rkey = $1`, rkey)
	require.NoError(t, err)
	for _, path := range paths {
		assert.NotContains(t, read(t, p, path), phrase("en", "differs"), "it was mended: %s", path)
	}
}
