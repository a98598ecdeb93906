package xrpc

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

// auditTown is an AppView on the story of logtest, which witnesses cosigned; put stores a record.
func auditTown(t *testing.T) (base string, told *logtest.Town, lines []string, put func(did, nsid, rkey string, record map[string]any) string) {
	t.Helper()
	pool := pgtest.Schema(t, index.Migrations())
	told = logtest.Tell(logtest.New(t))
	told.Close()
	told.BindWitnesses(1, logtest.Library, logtest.Museum)
	lines = told.Cosign(1)
	told.Follow(t, pool)
	mux := xrpc.NewMux(xrpc.Config{})
	Register(mux, query.New(pool, logtest.City), ledgerStub{})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, told, lines, func(did, nsid, rkey string, record map[string]any) string {
		return store(t, pool, did, nsid, rkey, record)
	}
}

// store puts a record that follows its schema into the index, with its row.
func store(t *testing.T, pool *pgxpool.Pool, did, nsid, rkey string, record map[string]any) string {
	t.Helper()
	record["$type"] = nsid
	raw, err := json.Marshal(record)
	require.NoError(t, err)
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	require.NoError(t, err)
	require.NoError(t, lexicons.Validate(nsid, rkey, cbor))
	args := pgx.NamedArgs{"did": did, "coll": nsid, "rkey": rkey, "cid": repo.CIDForCBOR(cbor).String(), "cbor": cbor}
	for _, sql := range []string{
		`insert into record (did, coll, rkey, cid, rev, cbor, indexed) values (@did, @coll, @rkey, @cid, '3k', @cbor, now())
		 on conflict (did, coll, rkey) do update set cid = excluded.cid, cbor = excluded.cbor`,
		`insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values (@did, @coll, @rkey, @cid, '3k', @cbor, now())`,
	} {
		_, err = pool.Exec(t.Context(), sql, args)
		require.NoError(t, err)
	}
	var city string
	require.NoError(t, pool.QueryRow(t.Context(), "select coalesce(max(log_vkey), '') from city").Scan(&city))
	require.NoError(t, index.Rebuild(t.Context(), pool))
	if city != "" { // the story's city is a row without a record
		_, err = pool.Exec(t.Context(), `insert into city (did, rkey, cid, name, tz, langs, ledger, log_origin, log_vkey, log_url)
values ($1, 'self', 'c', 'Berkeley', 'UTC', '{en}', $2, $2, $3, 'http://localhost:1') on conflict do nothing`, logtest.City, logtest.Origin, city)
		require.NoError(t, err)
	}
	return "at://" + did + "/" + nsid + "/" + rkey
}

const now = "2027-04-01T10:00:00.000Z"

func strong(uri string) map[string]any { return map[string]any{"uri": uri, "cid": logtest.CID} }

// answer is a method's answer, held against its schema.
func answer(t *testing.T, base, nsid string, params url.Values) map[string]any {
	t.Helper()
	code, raw := ask(t, base, nsid, params)
	require.Equal(t, http.StatusOK, code, "%s: %s", nsid, raw)
	require.NoError(t, lexicons.CheckOutput(nsid, raw), "%s: %s", nsid, raw)
	var out map[string]any
	require.NoError(t, json.Unmarshal(raw, &out))
	return out
}

func objects(t *testing.T, v any) []map[string]any {
	t.Helper()
	list, ok := v.([]any)
	require.True(t, ok, "%v is no list", v)
	out := make([]map[string]any, len(list))
	for i := range list {
		out[i], ok = list[i].(map[string]any)
		require.True(t, ok)
	}
	return out
}

func TestOnlyTheCityAnswersADispute(t *testing.T) {
	t.Parallel()
	base, _, _, put := auditTown(t)
	dispute := put("did:plc:ewvi7nxzyoun6zhxrhs64oiz", lexicons.GovDispute, "3mcx5l2w5ss2d", map[string]any{"subject": strong(logtest.Task),
		"kind": "org.city-sync.defs#disputeNonDisplacement", "summary": "The crew was paid for this.", "createdAt": now})
	get := func() map[string]any {
		return answer(t, base, "org.city-sync.gov.getDispute", url.Values{"uri": {dispute}})
	}
	assert.Equal(t, "open", get()["status"])
	key := lexicons.ResolutionKey(dispute)
	resolve := func(did, rkey, result string) {
		put(did, lexicons.GovResolution, rkey, map[string]any{"dispute": strong(dispute), "result": result, "reasons": "Because.", "createdAt": now})
	}
	resolve(logtest.Library.String(), key, "dismissed")
	d := get()
	assert.Equal(t, "open", d["status"], "a stranger's answer changes nothing")
	assert.Equal(t, "not-the-city", objects(t, d["resolutions"])[0]["notCounted"])
	resolve(logtest.City, key+lexicons.AdmissionSuffix, "admitted")
	assert.Equal(t, "admitted", get()["status"])
	resolve(logtest.City, key, "upheld")
	d = get()
	assert.Equal(t, "upheld", d["status"])
	answers := objects(t, d["resolutions"])
	require.Len(t, answers, 3)
	assert.Equal(t, []any{"admitted", "upheld", "dismissed"}, []any{answers[0]["result"], answers[1]["result"], answers[2]["result"]})
	listed := objects(t, answer(t, base, "org.city-sync.gov.listDisputes", url.Values{"subject": {logtest.Task}})["disputes"])
	assert.Len(t, listed, 1)
	assert.Empty(t, answer(t, base, "org.city-sync.gov.listDisputes", url.Values{"status": {"open"}})["disputes"])
}

func TestReportCountsOnlyWhenItIsTheLedgersAndSaysWhatTheLogSays(t *testing.T) {
	t.Parallel()
	base, _, _, put := auditTown(t)
	flow := func(n int, issued, burned, quiet, expired, active, dormant int64) map[string]any {
		return map[string]any{"startsAt": logtest.Month(n).StartsAt, "endsAt": logtest.Month(n).EndsAt, "issued": issued, "burned": burned, "quiet": quiet,
			"reactivated": 0, "expired": expired, "active": active, "dormant": dormant}
	}
	report := func(issued int64) map[string]any {
		return map[string]any{"book": logtest.Book, "epoch": logtest.Epoch, "capacity": 200, "cap": 384, "issued": logtest.Minted, "burned": logtest.Burned, "expired": logtest.Expired,
			"active": 80, "dormant": 5, "months": []any{flow(0, issued, logtest.Burned, 9, 0, 80, 9), flow(1, 0, 0, 0, logtest.Expired, 80, 5), flow(2, 0, 0, 0, 0, 80, 5)},
			"parameterSet": strong("at://" + logtest.City + "/org.city-sync.gov.parameterSet/3mcx5l2w5ss2p"),
			"toCheckpoint": strong("at://" + logtest.Origin + "/org.city-sync.ledger.checkpoint/000000000043"), "createdAt": now}
	}
	why := func() map[string]any {
		out := map[string]any{}
		for _, r := range objects(t, answer(t, base, "org.city-sync.audit.listEpochReports", nil)["reports"]) {
			out[r["uri"].(string)] = r["notCounted"]
		}
		return out
	}
	key := lexicons.ReportKey(logtest.Book, logtest.Epoch, "")
	first := put(logtest.Origin, lexicons.LedgerEpochReport, key, report(logtest.Minted+1))
	others := put(logtest.Library.String(), lexicons.LedgerEpochReport, key, report(logtest.Minted))
	assert.Equal(t, map[string]any{first: "differs-from-log", others: "not-the-ledger"}, why())
	corrected := report(logtest.Minted)
	corrected["supersedes"] = strong(first)
	second := put(logtest.Origin, lexicons.LedgerEpochReport, lexicons.ReportKey(logtest.Book, logtest.Epoch, first), corrected)
	assert.Equal(t, map[string]any{first: "superseded", second: nil, others: "not-the-ledger"}, why())
}

func TestCosignatureRecordCountsOnlyWithTheWitnesssOwnSignature(t *testing.T) {
	t.Parallel()
	base, told, lines, put := auditTown(t)
	size := int64(told.Size())
	key := lexicons.SeqKey(size)
	note := string(told.Note())
	checkpoint := put(logtest.Origin, lexicons.LedgerCheckpoint, key, map[string]any{"origin": logtest.Origin, "treeSize": size,
		"rootHash": map[string]any{"$bytes": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"}, "note": note, "at": now})
	sign := func(did, origin, line string) {
		put(did, lexicons.LedgerCosignature, key, map[string]any{"checkpoint": strong(checkpoint), "origin": origin, "treeSize": size, "signature": line, "at": now})
	}
	why := func() map[string]any {
		f := answer(t, base, "org.city-sync.audit.getFinality", url.Values{"seq": {"0"}})
		assert.Equal(t, "cosigned", f["entry"])
		out := map[string]any{}
		for _, r := range objects(t, f["cosignatures"]) {
			out[r["uri"].(string)[len("at://"):][:len(logtest.City)]] = r["notCounted"]
		}
		return out
	}
	sign(logtest.Library.String(), logtest.Origin, lines[0])
	sign(logtest.Museum.String(), logtest.Origin, lines[0])
	sign("did:plc:ewvi7nxzyoun6zhxrhs64oiz", logtest.Origin, lines[0])
	assert.Equal(t, map[string]any{logtest.Library.String(): nil, logtest.Museum.String(): "bad-signature", "did:plc:ewvi7nxzyoun6zhxrhs64oiz": "not-a-witness"}, why())
	sign(logtest.Library.String(), "did:plc:ewvi7nxzyoun6zhxrhs64oiz", lines[0])
	assert.Equal(t, "other-log", why()[logtest.Library.String()])
}

func TestEpochOfTheCitySaysWhatIsHeldAndCosigned(t *testing.T) {
	t.Parallel()
	base, told, _, put := auditTown(t)
	put(logtest.City, lexicons.ActorCity, "self", map[string]any{"name": "Berkeley", "tz": "America/Los_Angeles", "langs": []any{"en"}, "ledger": logtest.Origin,
		"log": map[string]any{"origin": logtest.Origin, "vkey": told.VKey, "url": told.URL}, "books": []any{map[string]any{"id": "std", "symbol": "$B", "kind": "standard"}}})
	epoch, ok := answer(t, base, "org.city-sync.actor.getCity", nil)["epoch"].(map[string]any)
	require.True(t, ok)
	assert.EqualValues(t, logtest.Held, epoch["held"])
	assert.EqualValues(t, logtest.Expired, epoch["expired"])
	assert.EqualValues(t, logtest.Supply, epoch["supply"])
	cosigned, ok := epoch["cosigned"].(map[string]any)
	require.True(t, ok)
	assert.EqualValues(t, told.Size(), cosigned["size"])
	assert.EqualValues(t, 2, cosigned["members"])
}
