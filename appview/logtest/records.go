package logtest

import (
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// Objection is a dispute about the story's task.
const Objection = "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/org.city-sync.gov.dispute/3mcx5l2w5ss2d"

const written = "2027-04-01T10:00:00.000Z"

// Strong is a strongRef to some version of a record.
func Strong(uri string) map[string]any { return map[string]any{"uri": uri, "cid": CID} }

// Publish stores what the town's organizations publish beside the log: profiles, the task, the offering.
func Publish(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `insert into organization (did, rkey, cid, name, summary, function_types, cities) values
($1, 'self', 'c', 'Library', '', '{}', '{}'), ($2, 'self', 'c', 'Museum', '', '{}', '{}')`, Library.String(), Museum.String())
	exec(t, pool, `insert into task (did, rkey, cid, title, summary, entry_uri, entry_cid, epoch, book, credits, slots, starts_at, ends_at)
values ($1, '3mcx5l2w5ss2t', $2, 'Sort returned books', 'Two hours at the main desk.', $3, 'c', $4, $5, 64, 5, '2027-01-09T18:00:00Z', '2027-01-09T20:00:00Z')`,
		Library.String(), CID, "at://"+City+"/org.city-sync.catalog.entry/3mcx5l2w5ss2e", Epoch, Book)
	exec(t, pool, `insert into offering (did, rkey, cid, title, summary, epoch, book, credits_per_unit, unit_label, committed_month, currency)
values ($1, '3mcx5l2w5ss2o', $2, 'A museum ticket', 'One entry on any day.', $3, $4, 5, 'ticket', 40, 'USD')`, Museum.String(), CID, Epoch, Book)
}

// Object stores an objection to the task, the city's two answers that the story's log cites, and one of the library, which does not count.
func Object(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `insert into dispute (did, rkey, cid, subject, subject_cid, kind, summary, remedy, created) values
($1, '3mcx5l2w5ss2d', 'c', $2, $3, 'org.city-sync.defs#disputeNonDisplacement', 'The desk was paid work until last year.', 'End the task.', $4)`,
		"did:plc:ewvi7nxzyoun6zhxrhs64oiz", Task, CID, written)
	for _, r := range [][]string{
		{City, "e7ef6vaq4xzu6s5yxnzjyiexmp-hold", "admitted", "It names a paid post that ended."},
		{City, "e7ef6vaq4xzu6s5yxnzjyiexmp", "dismissed", "The post was moved, not ended."},
		{Library.String(), "e7ef6vaq4xzu6s5yxnzjyiexmp", "withdrawn", "We would rather not."},
	} {
		exec(t, pool, `insert into resolution (did, rkey, cid, dispute_uri, result, reasons, created) values ($1, $2, 'c', $3, $4, $5, $6)`,
			r[0], r[1], Objection, r[2], r[3], written)
	}
}

// Report stores the ledger's report on the story's epoch, closed: an alarm in its second month, and figures of too few people.
func Report(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	month := func(n int, issued, burned, quiet, expired, dormant int64) map[string]any {
		return map[string]any{"startsAt": Month(n).StartsAt, "endsAt": Month(n).EndsAt, "issued": issued, "burned": burned, "quiet": quiet,
			"reactivated": 0, "expired": expired, "active": 80, "dormant": dormant, "warmUp": n == 0}
	}
	first, second := month(0, Minted, Burned, 9, 0, 9), month(1, 0, 0, 0, Expired, 5)
	first["expectedEfficiencyBps"] = 2500
	second["alarms"] = []any{map[string]any{"indicator": "backlog", "mode": "over-issuance", "response": "danger", "value": 6100}}
	key := lexicons.ReportKey(Book, Epoch, "")
	cid := version(t, pool, Origin, lexicons.LedgerEpochReport, key, map[string]any{
		"book": Book, "epoch": Epoch, "capacity": 200, "cap": 384, "issued": Minted, "burned": Burned, "expired": Expired, "active": 80, "dormant": 5,
		"months":       []any{first, second, month(2, 0, 0, 0, 0, 5)},
		"byCategory":   []any{map[string]any{"category": "library", "suppressed": true}, map[string]any{"category": "parks", "people": 12, "mints": 14, "issued": 90}},
		"parameterSet": Strong("at://" + City + "/org.city-sync.gov.parameterSet/3mcx5l2w5ss2p"),
		"toCheckpoint": Strong("at://" + Origin + "/org.city-sync.ledger.checkpoint/000000000043"), "createdAt": written})
	exec(t, pool, "insert into epoch_report (did, rkey, cid, book, epoch) values ($1, $2, $3, $4, $5)", Origin, key, cid, Book, Epoch)
}

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

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}
